# SPDX-License-Identifier: Apache-2.0
from djl_python import Output


def handle(inputs):
    return Output().error("no weights here")
