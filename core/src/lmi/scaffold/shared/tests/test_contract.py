# SPDX-License-Identifier: Apache-2.0
from lmi.testing import BackendContract
from lmi_acme.contract import CASE


class TestContract(BackendContract):
    case = CASE
