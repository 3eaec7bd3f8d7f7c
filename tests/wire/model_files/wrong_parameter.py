# SPDX-License-Identifier: Apache-2.0
from lmi.api import hookimpl


@hookimpl
def lmi_filter_text(txt):
    return txt
