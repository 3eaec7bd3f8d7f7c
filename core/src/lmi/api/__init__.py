# SPDX-License-Identifier: Apache-2.0
"""The contract: everything a backend or an extension imports from LMI."""

# fmt: off
from lmi.api.abilities import (
    ABILITIES,
    StepsAdapters,
    SupportsAdapters,
    SupportsClassification,
    SupportsEmbedding,
    SupportsPinnedAdapters,
    SupportsTasks,
    TaskPart,
    TaskRequest,
)
from lmi.api.adapters import Adapter, adapter_problem, adapter_problems, adapters_of, unserved_adapters
from lmi.api.answering import Answerer, AnswererLimits, Classifier, Compute, Inputs, TaskRunner
from lmi.api.artifacts import MANIFEST, ArtifactFormat, ModelArtifacts, Target
from lmi.api.backend import (
    CONTRACT_VERSION,
    STEPPER_CAPABILITIES,
    Accelerator,
    BackendInfo,
    Capability,
    EngineLibrary,
    Launch,
    MemoryOverhead,
    OldValue,
    Progress,
    Resume,
    Task,
)
from lmi.api.config import BackendConfig, Conflict, dtype_name, option
from lmi.api.engine import (
    Decode,
    Draft,
    Engine,
    EngineLimits,
    EngineStats,
    Prefill,
    StepBatch,
    StepOutput,
    Stepper,
    StepperLimits,
)
from lmi.api.errors import (
    ArtifactError,
    ConfigError,
    DeadlineError,
    EngineDeadError,
    EngineLoadError,
    ExistsError,
    LmiError,
    NotFoundError,
    NotReadyError,
    OutOfMemoryError,
    OverloadedError,
    PluginError,
    Problem,
    ProblemsError,
    RefusedError,
    RequestError,
    Severity,
    TooLargeError,
    UnsupportedError,
)
from lmi.api.hookspecs import hookimpl
from lmi.api.machine import Ranks, copy_of, free_memory_bytes, memory_share_bytes, n_cores, n_quota_cores, ranks_of
from lmi.api.merging import merging_problems
from lmi.api.refusing import refuse_engine
from lmi.api.requests import (
    Constraint,
    Finish,
    FinishReason,
    GenerationRequest,
    ReasoningMarks,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
    Usage,
)
from lmi.api.rules import context_problems, degree_problems, quantization_of
from lmi.api.shapes import ModelShape, shape_of
from lmi.api.symbols import Symbol, lacks_of
from lmi.api.tasks import TASK_NAMES, task_named, task_of, task_of_model
from lmi.api.texts import TextRequest, TextResult, TextToken

__all__ = [
    "ABILITIES", "Accelerator", "Adapter", "Answerer", "AnswererLimits", "ArtifactError", "ArtifactFormat",
    "BackendConfig", "BackendInfo", "CONTRACT_VERSION", "Capability", "Classifier", "Compute", "ConfigError",
    "Conflict", "Constraint", "DeadlineError", "Decode", "Draft", "Engine", "EngineDeadError", "EngineLibrary",
    "EngineLimits", "EngineLoadError", "EngineStats", "ExistsError", "Finish", "FinishReason", "GenerationRequest",
    "Inputs", "Launch", "LmiError", "MANIFEST", "MemoryOverhead", "ModelArtifacts", "ModelShape", "NotFoundError",
    "NotReadyError", "OldValue", "OutOfMemoryError", "OverloadedError", "PluginError", "Prefill", "Problem",
    "ProblemsError", "Progress", "Ranks", "ReasoningMarks", "RefusedError", "RequestError", "Resume",
    "STEPPER_CAPABILITIES", "SamplingParams", "Severity", "StepBatch", "StepOutput", "Stepper", "StepperLimits",
    "StepsAdapters", "SupportsAdapters", "SupportsClassification", "SupportsEmbedding", "SupportsPinnedAdapters",
    "SupportsTasks", "Symbol", "TASK_NAMES", "Target", "Task", "TaskPart", "TaskRequest", "TaskRunner", "TextRequest",
    "TextResult", "TextToken", "TokenChunk", "TokenLogprob", "TooLargeError", "UnsupportedError", "Usage",
    "adapter_problem", "adapter_problems", "adapters_of", "context_problems", "copy_of", "degree_problems",
    "dtype_name", "free_memory_bytes", "hookimpl", "lacks_of", "memory_share_bytes", "merging_problems", "n_cores",
    "n_quota_cores", "option", "quantization_of", "ranks_of", "refuse_engine", "shape_of", "task_named", "task_of",
    "task_of_model", "unserved_adapters",
]
