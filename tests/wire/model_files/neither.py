# SPDX-License-Identifier: Apache-2.0
def load(folder):
    return folder
