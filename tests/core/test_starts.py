# SPDX-License-Identifier: Apache-2.0
"""What was prepared one after the other starts together, or not at all."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lmi.api import Capability, NotFoundError
from lmi.serving.choices import prepare_choices
from tests.core.answering import Rig, play


class Journal:
    """Adapters of a model, of which some may go."""

    def __init__(self) -> None:
        self.names = {"french", "german"}

    async def prepare(self, name: str) -> None:
        pass

    def refuse_unknown(self, name: str, alias: str = "") -> None:
        if name and name not in self.names:
            raise NotFoundError("adapter.unknown", f"there is no adapter {name!r}")


@pytest.mark.parametrize("gone", ["french", "german"])
def test_prompts_do_not_start_where_their_adapter_has_gone_while_others_were_encoded(gone: str) -> None:
    async def scenario(rig: Rig) -> None:
        journal: Any = Journal()
        rig.model.adapters = journal
        info = dataclasses.replace(
            rig.model.plan.info, capabilities=rig.model.plan.info.capabilities | {Capability.ADAPTERS}
        )
        rig.model.plan = dataclasses.replace(rig.model.plan, info=info)
        prepared = [
            await prepare_choices(rig.model, rig.request(name, adapter=name), n_answers=1, n_candidates=1)
            for name in sorted(journal.names)
        ]
        generations = [each for choices in prepared for each in choices.generations]
        journal.names.remove(gone)
        with pytest.raises(NotFoundError, match=gone):
            rig.model.start(generations)
        assert rig.pool.groups == []
        journal.names.add(gone)
        rig.model.start(generations)
        assert [len(group) for group in rig.pool.groups] == [2]

    play(scenario)
