# SPDX-License-Identifier: Apache-2.0
"""What the rules work with: one backend, one model, engines loaded once and shared by the rules that only use them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lmi.api import (
    ArtifactFormat,
    BackendConfig,
    BackendInfo,
    Capability,
    GenerationRequest,
    SamplingParams,
    Stepper,
)
from lmi.config import parse, read_settings
from lmi.config.coerce import as_text
from lmi.config.model_entries import ModelEntry
from lmi.loading import LoadPlan, plan
from lmi.plugins import Kind, PluginRecord, Plugins
from lmi.testing.case import LOGPROB_TOLERANCE, BackendCase
from lmi.testing.checkpoints import ARCHITECTURES, N_COMPARED_TOKENS, PROMPTS, write_tiny
from lmi.testing.live import TIME_SCALE, Answer, LiveEngine
from lmi.testing.rules import NotDeclared
from lmi.workers import generate

MIN_CONTEXT_TOKENS = 160
"""The longest request of the rules, and a little."""

_MAX_STALLS = 3
_T = TypeVar("_T")

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
        # Extensions that happen to be installed are not what is tested.
        self.plugins = Plugins.discover({"LMI_EXTENSIONS": ""}, only_backend=case.backend)
        if any(each.info is not None for each in self.plugins.records):
            self.plugins.register(generate, "lmi.workers.generate")
        self._live: LiveEngine | None = None
        self._is_refused = False
        self._load_failure = ""
        self._vocab_size: int | None = None
        self._n_stalls = 0
        self._n_requests = 0
        self._references: dict[int, Answer] = {}

    def close(self) -> None:
        try:
            self.discard()
        finally:
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

    @property
    def info(self) -> BackendInfo:
        """The backend's description."""
        if self.record.info is None:
            first, self._is_refused = not self._is_refused, True
            reason = f"the plugin cannot be used: {self.record.reason}"
            raise AssertionError(reason if first else "not tried: the plugin cannot be used")
        return self.record.info

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

    def copy_of_model(self, name: str, *, links: bool = False) -> Path:
        """A copy of the model folder that may be spoilt.

        Args:
            name: of the copy.
            links: link the files instead of copying them: for changes that replace files, and write into none.
        """
        assert self.folder is not None
        # Of a link the file it leads to: a folder of the hub's cache is full of them.
        copy = (lambda source, end: os.link(os.path.realpath(source), end)) if links else shutil.copy2
        target = self.scratch / name
        shutil.rmtree(target, ignore_errors=True)
        try:
            return Path(shutil.copytree(self.folder, target, copy_function=copy))
        except (OSError, shutil.Error):  # another file system
            shutil.rmtree(target, ignore_errors=True)
            return Path(shutil.copytree(self.folder, target))

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
        # Whatever devices this machine has: a tiny model is split only where a rule asks for it.
        chosen = {"tensor_parallel_degree": 1, **self.case.settings, **settings}
        return plan(
            ModelEntry(url=str(model) if model else None),
            flags=self.flags(chosen),
            environ=environ or {},
            plugins=self.plugins,
            default_folder=self.scratch / "none",
            devices=self.case.devices,
        )

    def config(self, *, environ: Mapping[str, str] | None = None, **settings: Any) -> BackendConfig:
        """The backend's options alone, typed from the case's settings and what is given.

        Raises:
            ConfigError: as a start would.
        """
        flags = self.flags({**self.case.settings, **settings})
        found = read_settings(model_folder=None, environ=environ or {}, flags=flags)
        return parse(found, self.info, self.plugins.config_type(self.info.name), {}).config

    # --------------------------------------------------------------------------------------------------- the engine

    @property
    def engine(self) -> LiveEngine:
        """The engine that rules share which leave it as it was. There is one engine at a time: devices hold no two.

        Raises:
            AssertionError: it could not be loaded, or it was silent so often that there is no use in going on.
        """
        if self._live is None:
            self._live = self._load(self.plan())
        return self._live

    @contextlib.contextmanager
    def fresh(self, plan: LoadPlan | None = None) -> Iterator[LiveEngine]:
        """An engine of a rule's own, closed at the end of the block; the shared one is given up for it."""
        self.discard()
        engine = self._load(plan or self.plan())
        try:
            yield engine
        except BaseException:
            with contextlib.suppress(Exception):  # the rule's own complaint is the one to hear
                engine.close()
            raise
        engine.close()

    @contextlib.contextmanager
    def bare_stepper(self) -> Iterator[Callable[[Callable[[Stepper], _T]], _T]]:
        """A Stepper without the core's scheduler; gives what runs a function on it, always in one thread."""
        self.discard()
        plan = self.plan()
        hooks = self.plugins.hooks(self.info.name)
        with ThreadPoolExecutor(1, "lmi-contract-stepper") as thread:
            stepper: Stepper = thread.submit(
                hooks.lmi_load_engine,
                artifacts=plan.artifacts, config=plan.config, progress=lambda stage, fraction=None: None,
            ).result(self.case.load_s)  # fmt: skip
            try:
                yield lambda work: thread.submit(work, stepper).result(self.case.silence_s * TIME_SCALE)
            finally:
                thread.submit(stepper.close).result(self.case.silence_s * TIME_SCALE)

    def discard(self) -> None:
        """Close the shared engine; whoever asks for it next gets another one."""
        engine, self._live = self._live, None
        if engine is not None:
            with contextlib.suppress(Exception):  # rules L1 and L5 say what is wrong with closing
                engine.close()

    def _load(self, plan: LoadPlan) -> LiveEngine:
        assert not self._load_failure, f"not tried: the engine could not be loaded before ({self._load_failure})"
        assert self._n_stalls < _MAX_STALLS, f"not tried: {_MAX_STALLS} rules before this one waited in vain"
        try:
            engine = LiveEngine(self.plugins, plan, load_s=self.case.load_s, silence_s=self.case.silence_s)
        except Exception as error:
            self._load_failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise
        self._vocab_size = engine.engine.limits.vocab_size
        limit = engine.engine.limits.max_context_tokens
        if limit < MIN_CONTEXT_TOKENS:
            engine.close()
            raise AssertionError(
                f"the rules need a context of {MIN_CONTEXT_TOKENS} tokens, this engine has {limit}: take another model "
                "or option for the case"
            )
        return engine

    def note_stall(self) -> None:
        """Count a rule that waited in vain; after a few the rest fails at once."""
        self._n_stalls += 1

    def plan_that_ends(self) -> tuple[LoadPlan, int, list[int]]:
        """A copy of the model whose end-of-sequence id is one that it produces.

        Returns:
            How to load it, the number of the prompt, and its whole answer, the end-of-sequence id included.
        Raises:
            NotDeclared: the backend has no model.
        """
        if not self.has_model:
            raise NotDeclared("no model, so no end-of-sequence id")
        places = [(number, _first_new(self.greedy_ids(number))) for number in range(8)]
        number, place = next((each for each in places if each[1]), (0, 0))
        assert place, (
            "every greedy answer repeats one id, so none of them can end one in its middle: take another model"
        )
        ids = self.greedy_ids(number)
        folder = self.copy_of_model("ending", links=True)
        for name in ("config.json", "generation_config.json"):
            path = folder / name
            if path.is_file():
                content = {**json.loads(path.read_text("utf-8")), "eos_token_id": ids[place]}
                path.unlink()
                path.write_text(json.dumps(content), "utf-8")
        return self.plan(folder), number, ids[: place + 1]

    @cached_property
    def has_model(self) -> bool:
        return self.plan().artifacts.format is not ArtifactFormat.NONE

    # ------------------------------------------------------------------------------------------------- the requests

    def prompt(self, number: int) -> list[int]:
        """One of a few fixed prompts; token ids below 256 and below the engine's vocabulary."""
        if self._vocab_size is None:
            self._vocab_size = self.engine.engine.limits.vocab_size
        size = self._vocab_size or 256
        return [token_id % size for token_id in PROMPTS[number % len(PROMPTS)]]

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

    def run(self, numbers: Sequence[int], **sampling: Any) -> list[Answer]:
        """Run these prompts at the same time with further sampling fields; each must end in order."""
        requests = [self.request(self.prompt(number), **sampling) for number in numbers]
        return [answer.whole() for answer in self.engine.answers(requests)]


def _first_new(ids: Sequence[int]) -> int:
    """The first place after the first id where an id comes that was not there before; 0 if there is none."""
    return next((place for place in range(1, len(ids)) if ids[place] not in ids[:place]), 0)


def _check_gaps(answer: Answer) -> None:
    for position, score in enumerate(answer.logprobs):
        if len(score.top) > 1:
            gap = score.top[0][1] - score.top[1][1]
            assert gap > MIN_GAP, (
                f"the two best ids at output position {position} are {gap:.1g} apart; {MIN_GAP:g} is needed: "
                "rounding may swap them, so ids compared on this model prove nothing. Take another model, or let the "
                "rules compare log probabilities: is_exact=False, --inexact"
            )
