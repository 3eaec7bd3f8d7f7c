# SPDX-License-Identifier: Apache-2.0
"""What a backend says of itself, before any engine library is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lmi.api.artifacts import Target

CONTRACT_VERSION = 1
"""Raised when ``lmi.api`` changes incompatibly; server and worker compare it in their first message."""


class Accelerator(str, Enum):
    CPU = "cpu"
    CUDA = "cuda"
    NEURON = "neuron"


class Launch(str, Enum):
    """How a worker is started: one process (the engine may start its own ranks), or one process a rank under mpirun."""

    SINGLE = "single"
    CORE_MPI = "core-mpi"


class Task(str, Enum):
    """What a model does, the last three with whole requests: text goes in, and JSON comes out."""

    GENERATE = "generate"
    EMBED = "embed"
    CLASSIFY = "classify"
    TOKEN_CLASSIFICATION = "token-classification"
    FILL_MASK = "fill-mask"
    QUESTION_ANSWERING = "question-answering"

    @property
    def does(self) -> str:
        """In words: ``generates text``."""
        return _DOES[self.value]

    @property
    def takes_whole_requests(self) -> bool:
        """Whether the engine gets the request itself (``SupportsTasks``), not token ids that the server made of it."""
        return self in (Task.TOKEN_CLASSIFICATION, Task.FILL_MASK, Task.QUESTION_ANSWERING)


_DOES = {
    "generate": "generates text",
    "embed": "makes vectors",
    "classify": "gives labels",
    "token-classification": "labels words",
    "fill-mask": "fills masks",
    "question-answering": "answers questions",
}


class Resume(str, Enum):
    """What becomes of a running request when its worker dies.

    EXACT: it goes on with the very tokens it would have had. CONTINUES: the stream goes on, tokens may differ.
    NEVER: it fails with ``engine.died`` and what it has.
    """

    EXACT = "exact"
    CONTINUES = "continues"
    NEVER = "never"


class Capability(str, Enum):
    """Something a request can ask of a backend. The sampling ones are named like the fields of SamplingParams.

    What a request asks and the backend does not declare is refused with ``request.unsupported``.
    """

    MIN_TOKENS = "min_tokens"
    TEMPERATURE = "temperature"
    TOP_K = "top_k"
    TOP_P = "top_p"
    MIN_P = "min_p"
    TYPICAL_P = "typical_p"
    REPETITION_PENALTY = "repetition_penalty"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    LOGIT_BIAS = "logit_bias"
    BAD_TOKEN_IDS = "bad_token_ids"
    BAD_WORDS = "bad_word_ids"
    STOP_TOKEN_IDS = "stop_token_ids"
    IGNORE_EOS = "ignore_eos"
    SEED = "seed"
    LOGPROBS = "n_logprobs"
    PROMPT_LOGPROBS = "n_prompt_logprobs"
    CONSTRAINT = "constraint"
    ADAPTERS = "adapters"
    BATCH_INVARIANT = "batch_invariant"


STEPPER_CAPABILITIES = frozenset(c for c in Capability if c not in (Capability.ADAPTERS, Capability.BATCH_INVARIANT))
"""What the core's scheduler and sampling give every stepper that returns logits."""


class Progress(Protocol):
    """Reports how far a long piece of work is: ``progress("load weights", 0.4)``; fraction None when unknown."""

    def __call__(self, stage: str, fraction: float | None = None) -> None: ...


@dataclass(frozen=True, kw_only=True)
class EngineLibrary:
    """A Python distribution the backend drives, and the versions it was tested with (PEP 440 specifier).

    Args:
        distribution: its name on the index.
        versions: those it was tested with; empty means any.
        builds: other distributions that hold the same library for other devices; one of them is enough.
        instead: other libraries the backend can drive in its place, in environments of their own; which one a model
            needs, the backend says when it is loaded.
    """

    distribution: str
    versions: str = ""
    builds: tuple[str, ...] = ()
    instead: tuple[EngineLibrary, ...] = ()

    @property
    def choices(self) -> tuple[EngineLibrary, ...]:
        """The library, and those that may be there in its place; one of them must be."""
        return (self, *self.instead)

    @property
    def names(self) -> tuple[str, ...]:
        """Every distribution that holds the library."""
        return (self.distribution, *self.builds)


@dataclass(frozen=True, kw_only=True)
class OldValue:
    """A value that still selects a backend, and what to write instead; a warning says so.

    Args:
        key: ``engine``, ``option.entryPoint`` or ``option.rolling_batch``.
        value: as people wrote it; case does not count.
        write: what to write now.
    """

    key: str
    value: str
    write: str


@dataclass(frozen=True, kw_only=True)
class MemoryOverhead:
    """What a backend takes of a device beside weights and cache, and how it keeps those; ``lmi plan`` reckons with it.

    Args:
        context_bytes: what the driver's context and the libraries take of each device.
        host_bytes: the same where the CPU is the device.
        parallel_bytes: buffers of the collectives on each device, where a model is split.
        graph_bytes: captured graphs on each CUDA device; ``option.enforce_eager`` leaves them out.
        memory_share: part of a device's memory that it uses at all; ``option.gpu_memory_utilization`` sets another one.
        cache_share: part of what weights and the rest leave that the cache takes;
            ``option.kv_cache_free_gpu_mem_fraction`` sets another one.
        prefill_tokens: most prompt tokens of a step where no option says.
        ends_window: whether it frees what a layer's sliding window has passed.
        keeps_latent: whether it caches the latent vector of latent attention, not the keys and values made of it.
        splits_layers: whether the devices of a copy get whole layers instead of a part of each.
        takes_uneven: whether heads may be split unevenly, or are padded until they can be split.
        copied_heads: types of models whose output head, where it shares the embedding's memory, gets memory of its own
            on a CPU.
        dtype_of: the number type that ``option.dtype=auto`` means, from the one that is stored (``fp32``, ``bf16``) and
            the machine; None takes the stored one.
        source: where the numbers are from.
    """

    context_bytes: int = 0
    host_bytes: int = 0
    parallel_bytes: int = 0
    graph_bytes: int = 0
    memory_share: float = 1.0
    cache_share: float = 1.0
    prefill_tokens: int = 2048
    ends_window: bool = False
    keeps_latent: bool = True
    splits_layers: bool = False
    takes_uneven: bool = False
    copied_heads: frozenset[str] = frozenset()
    dtype_of: Callable[[str, Target], str] | None = None
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """A backend's description: instant to make, no engine import, no device touched.

    Args:
        name: unique, lower case; what ``lmi plugins`` lists and ``option.rolling_batch`` may say.
        summary: one line for people.
        rolling_batch: further values of ``option.rolling_batch`` that select it.
        entry_points: values of ``option.entryPoint`` that select it.
        engine_names: values of ``engine`` that select it; ``Python`` or ``MPI`` among them only prefer it.
        modes: of ``Python`` and ``MPI`` those it can be asked to run in; empty means both.
        async_entry_points: those of ``entry_points`` under which ``rolling_batch=disable`` leaves batching to the
            engine.
        old_values: values above that have a successor.
        takes_any_rolling_batch: under its entry points, a foreign ``option.rolling_batch`` counts as ``auto`` with a
            warning; without it that is an error.
        image_features: values of ``SERVING_FEATURES`` that announce it.
        model_types: from ``config.json``; where an image announces several backends, it is taken for these.
        accelerators: devices it runs on, best first.
        launch: how its worker is started.
        spans_machines: of a worker that is one process: whether the engine has ranks on other machines, too, where its
            own launcher started the server; ``option.mpi_hostfile`` then says which devices a copy has where.
        needs_model: False for a backend that serves without model files.
        artifact_formats: names of ArtifactFormat it loads.
        architectures: names from ``config.json`` it serves; empty means any model of its tasks.
        tasks: what it does with models, the usual one first; the engine needs the ability that goes with each.
        takes_encoders: whether it generates with models of an encoder and a decoder, too.
        quantizations: values of ``option.quantize`` it takes.
        capabilities: request options it honours; all others are refused.
        own_constraints: an Engine's own library reads constraints, and may take what the core's cannot; without it the
            server refuses what the core could not obey.
        resume: what becomes of running requests when a worker dies.
        needs_compile: weights must be compiled before they can be loaded.
        streams_batches: whole batches (``batch_size`` above 1) may be asked to stream.
        is_loadable: False while it only reads and checks its configuration; then it is not chosen automatically
            where another one fits.
        engine_libraries: distributions it drives, with the tested versions.
        compilers: distributions whose version a compiled model depends on.
        memory: what it takes of a device beside weights and cache.
        instances: families of SageMaker's machines that it is offered on, as ``g5``; empty means all with a device of
            ``accelerators``.
        image: the kind of LMI's image that holds its engine, by the last part of the image's name.
        install: the command that installs it with its engine.
        stopped_by: codes of warnings about a model's files that stop this backend, as ``weights.index-missing``.
        priority: among backends that fit equally well, the higher one is chosen automatically; a negative one only
            after all others that fit.
    """

    name: str
    summary: str
    rolling_batch: tuple[str, ...] = ()
    entry_points: tuple[str, ...] = ()
    engine_names: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    async_entry_points: tuple[str, ...] = ()
    old_values: tuple[OldValue, ...] = ()
    takes_any_rolling_batch: bool = False
    image_features: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    accelerators: tuple[Accelerator, ...] = (Accelerator.CPU,)
    launch: Launch = Launch.SINGLE
    spans_machines: bool = False
    needs_model: bool = True
    artifact_formats: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = (Task.GENERATE,)
    takes_encoders: bool = True
    quantizations: tuple[str, ...] = ()
    capabilities: frozenset[Capability] = frozenset()
    own_constraints: bool = False
    resume: Resume = Resume.CONTINUES
    needs_compile: bool = False
    streams_batches: bool = False
    is_loadable: bool = True
    engine_libraries: tuple[EngineLibrary, ...] = ()
    compilers: tuple[str, ...] = ()
    memory: MemoryOverhead = field(default_factory=MemoryOverhead)
    instances: tuple[str, ...] = ()
    image: str = ""
    install: str = ""
    stopped_by: tuple[str, ...] = ()
    priority: int = 0
