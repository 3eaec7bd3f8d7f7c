# SPDX-License-Identifier: Apache-2.0
"""How well a backend suits a model and a machine, by what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata

from lmi.api import ArtifactFormat, BackendInfo, EngineLoadError, ModelArtifacts, Target, Task, task_of

_CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_SERVED = {
    Task.GENERATE: "causal language models",
    Task.EMBED: "embedding models",
    Task.CLASSIFY: "classification models",
    Task.TOKEN_CLASSIFICATION: "models that label words",
    Task.FILL_MASK: "masked language models",
    Task.QUESTION_ANSWERING: "models that answer questions",
}
_MAX_NAMED = 3


@cache
def is_installed(distribution: str) -> bool:
    """Whether this Python has a distribution, as of the first time it is asked."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def misfits(
    info: BackendInfo,
    artifacts: ModelArtifacts | None,
    target: Target,
    *,
    architectures: bool = True,
    task: str | None = None,
) -> list[str]:
    """Why a backend does not suit a model and a machine, by its own description; empty when it does.

    Args:
        architectures: False leaves the judgement of the architecture to the backend's own checks.
        task: the value of ``option.task``; None for what the model was made for.
    """
    reasons = []
    if elsewhere(info, target):
        reasons.append(elsewhere(info, target))
    if artifacts is None or artifacts.format is ArtifactFormat.NONE:
        return [*reasons, "needs a model"] if info.needs_model else reasons
    if artifacts.format.value not in info.artifact_formats:
        loads = ", ".join(info.artifact_formats) or "no files"
        reasons.append(f"loads {loads}, not {artifacts.format.value}")
    if architectures and artifacts.architectures and not _serves(info, artifacts, task_of(artifacts, task)):
        serves = _first(info.architectures) or _SERVED[info.tasks[0]]
        named = f" for {task}" if task else ""
        reasons.append(f"serves {serves}, not {', '.join(artifacts.architectures)}{named}")
    elif architectures and not info.takes_encoders and _has_encoder(artifacts, task):
        what = ", ".join(artifacts.architectures) or artifacts.model_type
        reasons.append(f"generates with decoders alone, and {what} has an encoder as well")
    return reasons


def _has_encoder(artifacts: ModelArtifacts, task: str | None) -> bool:
    return bool(artifacts.config.get("is_encoder_decoder")) and task_of(artifacts, task) is Task.GENERATE


def _first(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are: some backends serve a hundred architectures."""
    n_more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {n_more} more" if n_more > 0 else "")


def elsewhere(info: BackendInfo, target: Target) -> str:
    """That a backend does not run on this kind of device: "runs on neuron, not on cuda"; "" where it does."""
    if target.accelerator in info.accelerators:
        return ""
    return f"runs on {', '.join(each.value for each in info.accelerators)}, not on {target.accelerator.value}"


def cannot_load_yet(
    info: BackendInfo, reason: str, artifacts: ModelArtifacts, target: Target, infos: Iterable[BackendInfo]
) -> EngineLoadError:
    """The error for a start with a backend that only checks its configuration.

    Args:
        info: it.
        reason: why it was chosen.
        artifacts: the model.
        target: the machine.
        infos: every installed backend; those that could take its place are named.
    """
    able = [each for each in infos if each.is_loadable and each.needs_model]
    others = [each.name for each in able if not misfits(each, artifacts, target)]
    hint = f"Set option.rolling_batch to one that can: {', '.join(sorted(others))}"
    message = f"{info.name} ({reason}) reads and checks its configuration; it cannot load models yet"
    return EngineLoadError(
        "engine.not-implemented", message, hint if others else "Wait for a later version of its package"
    )


def _class_names(artifacts: ModelArtifacts) -> list[str]:
    """What a model's class is called, and as what its own code can be loaded: ``AutoModelForCausalLM``."""
    auto_map = artifacts.config.get("auto_map")
    return [*artifacts.architectures, *(map(str, auto_map) if isinstance(auto_map, dict) else ())]


def _serves(info: BackendInfo, artifacts: ModelArtifacts, task: Task) -> bool:
    """Whether a backend has code for a model, as far as it says, and does with it what is asked."""
    if task not in info.tasks:
        return False
    names = _class_names(artifacts)
    if info.architectures:
        return any(name in info.architectures for name in names)
    return task is not Task.GENERATE or any(name.endswith(_CAUSAL_SUFFIXES) for name in names)


@dataclass(frozen=True)
class Circumstances:
    """What a choice among several backends depends on.

    Args:
        artifacts: the model, as far as it is known.
        target: the machine.
        mode: ``python`` or ``mpi`` where ``engine`` or ``mpi_mode`` asks for one; "" otherwise.
        features: values of ``SERVING_FEATURES``, in lower case.
        has: whether the Python of the workers has a distribution; None where that is not known.
        task: the value of ``option.task``; None where it is not set.
    """

    artifacts: ModelArtifacts | None
    target: Target
    mode: str = ""
    features: frozenset[str] = frozenset()
    has: Callable[[str], bool] | None = is_installed
    task: str | None = None

    def misfits(self, info: BackendInfo) -> list[str]:
        """Why a backend cannot be taken; empty when it can."""
        reasons = misfits(info, self.artifacts, self.target, task=self.task)
        modes = [each.lower() for each in info.modes]
        if self.mode and modes and self.mode not in modes:
            reasons.append(f"runs under engine={' or '.join(info.modes)}, not {self.mode}")
        return reasons

    def lacks(self, info: BackendInfo) -> str:
        """Why a backend cannot be used as things are: "it needs ...", "it cannot load models yet"; "" when it can."""
        if not info.is_loadable:
            return "cannot load models yet"
        absent = self._absent(info)
        return f"needs {', '.join(absent)}, which is not installed" if absent else ""

    def is_announced(self, info: BackendInfo) -> bool:
        """Whether the image says that it holds this backend."""
        return not self.features.isdisjoint(each.lower() for each in info.image_features)

    def rank(self, info: BackendInfo) -> tuple[bool | int | str, ...]:
        """Smaller is better: announced, usable, for this type of model, asked for by the mode, not a last resort,
        made for this device, then priority, then the name so that it is never chance."""
        is_announced, *rest = self.preference(info)
        return (is_announced, not info.is_loadable, bool(self._absent(info)), *rest)

    def preference(self, info: BackendInfo) -> tuple[bool | int | str, ...]:
        """The rank that a backend would have if it were usable."""
        is_announced = self.is_announced(info)
        claims_mode = self.mode in (each.lower() for each in info.engine_names)
        on_list = self.target.accelerator in info.accelerators
        place = info.accelerators.index(self.target.accelerator) if on_list else len(info.accelerators)
        is_for_type = is_announced and self._model_type in (each.replace("-", "_") for each in info.model_types)
        return (
            not is_announced,
            not is_for_type,
            bool(self.mode) and not claims_mode,
            info.priority < 0,
            place,
            -info.priority,
            info.name,
        )

    @property
    def _model_type(self) -> str:
        return self.artifacts.model_type.lower().replace("-", "_") if self.artifacts is not None else ""

    def _absent(self, info: BackendInfo) -> list[str]:
        if self.has is None:
            return []
        names = {each: [name for choice in each.choices for name in choice.names] for each in info.engine_libraries}
        return [each.distribution for each in info.engine_libraries if not any(map(self.has, names[each]))]
