# SPDX-License-Identifier: Apache-2.0
"""The test file that ``lmi contract`` runs; a plugin's own looks just like it."""

from lmi.testing import BackendContract, session


class TestContract(BackendContract):
    case = session.chosen_case()
