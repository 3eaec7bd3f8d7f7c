# SPDX-License-Identifier: Apache-2.0
import no_such_library


def handle(inputs):
    return no_such_library
