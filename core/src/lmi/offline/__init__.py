# SPDX-License-Identifier: Apache-2.0
"""Answer the lines of a file, without a port: prompts in, answers out, and on from where a run was cut."""

from lmi.offline.prompts import Prompt, prompts_of
from lmi.offline.records import Records
from lmi.offline.work import Work

__all__ = ["Prompt", "Records", "Work", "prompts_of"]
