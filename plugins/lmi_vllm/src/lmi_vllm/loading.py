# SPDX-License-Identifier: Apache-2.0
"""From options to a running engine of vLLM, in the worker."""

from __future__ import annotations

import logging

from lmi.api import (
    BackendInfo,
    Engine,
    EngineLoadError,
    LmiError,
    ModelArtifacts,
    OutOfMemoryError,
    Progress,
    refuse_engine,
    task_of,
)
from lmi_vllm.config import VLLMConfig
from lmi_vllm.environment import prepare
from lmi_vllm.guard import find_problems
from lmi_vllm.messages import LastWords, Messages, first_line, is_out_of_memory
from lmi_vllm.starting import engine_arguments

_LOG = logging.getLogger(__name__)


def load(info: BackendInfo, artifacts: ModelArtifacts, config: VLLMConfig, progress: Progress) -> Engine:
    """Start vLLM on a model.

    Args:
        info: the backend's description.
        artifacts, config, progress: as ``lmi_load_engine`` has them.
    Raises:
        EngineLoadError: vLLM lacks what is called here, or with the last errors that its processes logged.
        OutOfMemoryError: with the same.
    """
    prepared = prepare(config, artifacts)
    for line in prepared.lines:
        _LOG.info("%s", line)
    messages = Messages(progress)
    messages.listen()
    try:
        progress("import vllm")
        arguments = engine_arguments(artifacts, config, prepared.cache_bytes)
        refuse_engine(info.name, find_problems(info, arguments))
        from lmi_vllm.adapter_engine import AdapterEngine
        from lmi_vllm.engine import VLLMEngine
        from lmi_vllm.pooling import ENGINES

        task = task_of(artifacts, config.task)
        kind = ENGINES.get(task) or (AdapterEngine if config.enable_lora else VLLMEngine)
        return kind(arguments, artifacts.eos_token_ids, messages.words)
    except (LmiError, ImportError):
        raise
    except Exception as error:
        raise _explained(error, messages.words, artifacts.folder) from error
    finally:
        messages.loaded()


def _explained(error: Exception, words: LastWords, folder: str) -> LmiError:
    """What went wrong, in the words of the process in which it did: vLLM's own exception says "see above"."""
    reason = str(error).strip() or type(error).__name__
    if words.text and words.text not in reason:
        reason = f"{words.text} ({first_line(error)})"
    if is_out_of_memory(error, words.text):
        return OutOfMemoryError(
            "engine.out-of-memory",
            f"vLLM could not load {folder}: {reason}",
            "Lower option.max_model_len or option.max_rolling_batch_size, give the cache more "
            "(option.gpu_memory_utilization, option.kv_cache_memory_bytes), or take a larger machine",
        )
    return EngineLoadError("engine.load-failed", f"vLLM could not load {folder}: {reason}", "The log above says more")
