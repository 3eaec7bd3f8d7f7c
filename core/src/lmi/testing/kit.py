# SPDX-License-Identifier: Apache-2.0
"""What the rules work with: one backend, one model, engines loaded once and shared by the rules that only use them."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from lmi.api import (
    ArtifactFormat,
    BackendConfig,
    BackendInfo,
    Capability,
    GenerationRequest,
    SamplingParams,
)
from lmi.config import parse, read_settings
from lmi.config.coerce import as_text
from lmi.loading import LoadPlan, plan
from lmi.plugins import Kind, PluginRecord, Plugins
from lmi.testing.case import LOGPROB_TOLERANCE, BackendCase
from lmi.testing.checkpoints import ARCHITECTURES, N_COMPARED_TOKENS, PROMPTS, write_tiny
from lmi.testing.live import Answer, LiveEngine
from lmi.workers import generate

MIN_GAP = 1e-3
"""Two best logits closer than this may change places by rounding, so ids compared there would prove nothing."""


class Kit:
    """One BackendCase made ready: its plugin found, its model written, its engine loaded when a rule first asks.

    Args:
        case: what the author said.
    """

    def __init__(self, case: BackendCase) -> None:
        self.case = case
        self.scratch = Path(tempfile.mkdtemp(prefix="lmi-contract-"))
        self.plugins = Plugins.discover({}, only_backend=case.backend)
        if self.record.info is not None:
            self.plugins.register(generate, "lmi.workers.generate")
        self._n_requests = 0
        self._references: dict[int, Answer] = {}

    def close(self) -> None:
        if "engine" in self.__dict__:
            self.engine.close()
        if "_ending" in self.__dict__:
            self._ending[0].close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    # -------------------------------------------------------------------------------------------------- the backend

    @cached_property
    def record(self) -> PluginRecord:
        """What discovery knows of the plugin."""
        found = [each for each in self.plugins.records if each.kind is Kind.BACKEND and each.name == self.case.backend]
        assert found, (
            f"no backend '{self.case.backend}' is installed into {sys.executable}: install the plugin "
            'and name it in its pyproject.toml under [project.entry-points."lmi.backends"]'
        )
        return found[0]

    @cached_property
    def info(self) -> BackendInfo:
        """The backend's description."""
        assert self.record.info is not None, f"the plugin cannot be used: {self.record.reason}"
        return self.record.info

    @cached_property
    def module(self) -> str:
        """The module that the plugin's entry point names."""
        found = [each for each in metadata.entry_points(group="lmi.backends") if each.name == self.case.backend]
        return found[0].module

    def declares(self, capability: Capability) -> bool:
        return capability in self.info.capabilities

    # ---------------------------------------------------------------------------------------------------- the model

    @cached_property
    def folder(self) -> Path | None:
        """The model's folder; None for a backend that is tested without one."""
        model = self.case.model
        if model is None:
            if not self.info.needs_model:
                return None
            model = "llama"
        return self.write(model, "model") if model in ARCHITECTURES else Path(model)

    def write(self, architecture: str | Path, name: str, **changes: Any) -> Path:
        """Write a tiny checkpoint into a folder of the kit's own."""
        return write_tiny(str(architecture), self.scratch / name, **changes)

    def copy_of_model(self, name: str) -> Path:
        """A copy of the model folder that may be spoilt."""
        assert self.folder is not None
        return Path(shutil.copytree(self.folder, self.scratch / name, symlinks=False))

    def flags(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Settings as a user writes them on the command line."""
        chosen = {"rolling_batch": self.case.backend, "max_rolling_batch_size": self.case.n_slots, **settings}
        return {key: as_text(value) for key, value in chosen.items()}

    def plan(
        self, folder: Path | None = None, *, environ: Mapping[str, str] | None = None, **settings: Any
    ) -> LoadPlan:
        """Everything up to the load: settings, artifacts, typed configuration, checks.

        Args:
            folder: the model's, if another one than the case's.
            environ: environment variables; none of this process's are read.
            settings: further options, beside the case's.
        """
        model = folder or self.folder
        return plan(
            str(model) if model else None,
            flags=self.flags({**self.case.settings, **settings}),
            environ=environ or {},
            plugins=self.plugins,
            default_folder=self.scratch / "none",
        )

    def config(self, *, environ: Mapping[str, str] | None = None, **settings: Any) -> BackendConfig:
        """The backend's options alone, typed from nothing but what is given.

        Raises:
            ConfigError: as a start would.
        """
        flags = self.flags(settings)
        found = read_settings(model_folder=None, environ=environ or {}, flags=flags)
        return parse(found, self.info, self.plugins.config_type(self.info.name), {}).config

    # --------------------------------------------------------------------------------------------------- the engine

    @cached_property
    def engine(self) -> LiveEngine:
        """The engine that all rules share which leave it as it was."""
        return self.load()

    def load(self, plan: LoadPlan | None = None) -> LiveEngine:
        """Load another engine; whoever asks closes it."""
        return LiveEngine(self.plugins, plan or self.plan(), self.case.timeout_s)

    @cached_property
    def has_model(self) -> bool:
        return self.plan().artifacts.format is not ArtifactFormat.NONE

    def engines_that_end(self) -> list[tuple[LiveEngine, int, list[int]]]:
        """An engine on a copy of the model whose end-of-sequence id is one that it produces.

        Returns:
            The engine, the number of the prompt, and its whole answer, the end-of-sequence id included. Empty for a
            backend without a model.
        """
        return [self._ending] if self.has_model else []

    @cached_property
    def _ending(self) -> tuple[LiveEngine, int, list[int]]:
        number, ids = next((n, self.greedy_ids(n)) for n in range(8) if len(set(self.greedy_ids(n)[:4])) > 2)
        place = next(place for place in range(2, len(ids)) if ids[place] not in ids[:place])
        folder = self.copy_of_model("ending")
        for name in ("config.json", "generation_config.json"):
            path = folder / name
            if path.is_file():
                content = json.loads(path.read_text("utf-8"))
                path.write_text(json.dumps({**content, "eos_token_id": ids[place]}), "utf-8")
        return self.load(self.plan(folder)), number, ids[: place + 1]

    # ------------------------------------------------------------------------------------------------- the requests

    def prompt(self, number: int) -> list[int]:
        """One of a few fixed prompts; token ids below 256."""
        return list(PROMPTS[number % len(PROMPTS)])

    def request(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int = N_COMPARED_TOKENS,
        *,
        resumed_ids: Sequence[int] = (),
        adapter: str = "",
        **sampling: Any,
    ) -> GenerationRequest:
        """A request that runs to max_tokens where the backend can be told to."""
        self._n_requests += 1
        if self.declares(Capability.IGNORE_EOS):
            sampling.setdefault("ignore_eos", True)
        return GenerationRequest(
            request_id=f"contract-{self._n_requests}",
            prompt_ids=list(prompt_ids),
            resumed_ids=list(resumed_ids),
            sampling=SamplingParams(max_tokens=max_tokens, **sampling),
            adapter=adapter,
        )

    def reference(self, number: int) -> Answer:
        """The greedy answer to ``prompt(number)``, run alone; computed once.

        Raises:
            AssertionError: two best logits are too close for a comparison of ids to mean anything.
        """
        if number not in self._references:
            wants: dict[str, Any] = {"n_logprobs": 2} if self.declares(Capability.LOGPROBS) else {}
            answer = self.engine.answer(self.request(self.prompt(number), **wants))
            if self.case.is_exact:
                _check_gaps(answer)
            self._references[number] = answer
        return self._references[number]

    def greedy_ids(self, number: int) -> list[int]:
        return self.reference(number).ids

    # ---------------------------------------------------------------------------------------------------- judgement

    def check_same(self, found: Answer, number: int, when: str, n_before: int = 0) -> None:
        """Check that an answer to ``prompt(number)`` is the greedy one, or as good where arithmetic is not exact.

        Args:
            found: the answer.
            number: of the prompt.
            when: what was different, for the message.
            n_before: ids of the greedy answer that came before this one.
        """
        expected = self.greedy_ids(number)[n_before:]
        if found.ids == expected:
            return
        what = f"{when}: prompt {number} got {found.ids}, alone it gets {expected}"
        assert not self.case.is_exact, what
        ids = self.greedy_ids(number)[:n_before] + found.ids
        gap = self.largest_gap(self.prompt(number), ids)
        assert len(found.ids) == len(expected), what
        assert gap <= LOGPROB_TOLERANCE, f"{what}; one of its ids is {gap:.3f} less likely than the best"

    def largest_gap(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> float:
        """How far the least likely of these ids is behind the best one at its place, in nats (teacher forcing)."""
        if not self.declares(Capability.PROMPT_LOGPROBS):
            raise AssertionError(
                "ids differ, and without n_prompt_logprobs nobody can say by how much: declare it, or test in float32"
            )
        request = self.request([*prompt_ids, *ids], 1, n_prompt_logprobs=1)
        scores = self.engine.answer(request).prompt_logprobs[len(prompt_ids) :]
        gaps = [score.top[0][1] - score.logprob for score in scores if score is not None]
        assert len(gaps) == len(ids), f"{len(ids)} ids were scored, {len(gaps)} scores came back"
        return max(gaps)

    def differs(self, answers: Sequence[Answer], numbers: Sequence[int]) -> bool:
        """Whether any of these answers is not the greedy one of its prompt."""
        return any(answer.ids != self.greedy_ids(n) for answer, n in zip(answers, numbers, strict=True))

    def run(self, numbers: Sequence[int], **sampling: Any) -> list[Answer]:
        """Run these prompts at the same time with further sampling fields; each must end in order."""
        requests = [self.request(self.prompt(number), **sampling) for number in numbers]
        return [answer.whole() for answer in self.engine.answers(requests)]


def _check_gaps(answer: Answer) -> None:
    for position, score in enumerate(answer.logprobs):
        if len(score.top) > 1:
            gap = score.top[0][1] - score.top[1][1]
            assert gap > MIN_GAP, (
                f"the two best ids at output position {position} are only {gap:.1g} apart: ids compared on this model "
                "would prove nothing; take another model or seed"
            )
