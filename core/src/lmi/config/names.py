# SPDX-License-Identifier: Apache-2.0
"""The tables of names: which keys are plain, and which foreign variables mean one of LMI's own keys.

Compatibility grows here, as data: a new foreign variable or plain key is one line and needs no code.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterable

PREFIX = "option."

PLAIN_KEYS = frozenset({
    "engine", "job_queue_size", "batch_size", "max_dynamic_batch_size", "max_batch_delay", "max_idle_time",
    "minWorkers", "maxWorkers", "gpu.minWorkers", "gpu.maxWorkers", "nc.minWorkers", "nc.maxWorkers", "cpu.minWorkers",
    "cpu.maxWorkers", "load_on_devices", "log_request_metric", "metrics_aggregation", "required_memory_mb",
    "reserved_memory_mb", "gpu.required_memory_mb", "gpu.reserved_memory_mb", "retry_threshold", "max_request_size",
})  # fmt: skip
"""Keys of the model server itself; they are written without ``option.``. Source: the LMI configuration reference."""

SERVER_KEYS = frozenset({
    "inference_address", "management_address", "load_models", "model_store", "model_url_pattern", "wait_model_loading",
    "allow_multi_status", "private_key_file", "certificate_file", "cors_allowed_origin", "cors_allowed_methods",
    "cors_allowed_headers", "metrics_log", "metrics_namespace", "metrics_log_interval", "diagnostics_token",
})  # fmt: skip
"""Keys of the whole server, in config.properties and ``SERVING_*``; a model's own file has none of them."""

CAMEL_CASE_KEYS = frozenset({"option.entryPoint", "option.pythonExecutable", "option.modelName"} | PLAIN_KEYS)
"""Keys that a variable's upper case cannot spell; they are found whatever their case."""

RENAMED = {"s3url": "option.model_id"}
"""Names without ``option.`` that have had a successor since before they could be anything else."""

FOREIGN_VARIABLES = {
    "HF_MODEL_ID": "option.model_id",
    "HF_REVISION": "option.revision",
    "HF_TASK": "option.task",
    "HF_TRUST_REMOTE_CODE": "option.trust_remote_code",
    "HF_MODEL_TRUST_REMOTE_CODE": "option.trust_remote_code",
    "HF_MODEL_QUANTIZE": "option.quantize",
    "SM_NUM_GPUS": "option.tensor_parallel_degree",
    "TENSOR_PARALLEL_DEGREE": "option.tensor_parallel_degree",
    "PIPELINE_PARALLEL_DEGREE": "option.pipeline_parallel_degree",
    "MAX_BATCH_SIZE": "option.max_rolling_batch_size",
    "MAX_BATCH_PREFILL_TOKENS": "option.max_rolling_batch_prefill_tokens",
    "MAX_CONCURRENT_REQUESTS": "job_queue_size",
    "MODEL_LOADING_TIMEOUT": "option.model_loading_timeout",
    "PREDICT_TIMEOUT": "option.predict_timeout",
    "PYTHON_EXECUTABLE": "option.pythonExecutable",
    "DJL_ENTRY_POINT": "option.entryPoint",
}
"""Variables of other servers that LMI reads; each fills its key only where nothing else does, a later one before an
earlier one. Sources: the entry points of LMI's and TGI's images."""

OLD_VARIABLES = {"HF_TRUST_REMOTE_CODE": "HF_MODEL_TRUST_REMOTE_CODE"}
"""Foreign variables that have a successor."""

VARIABLES_OF_SEVERAL_KEYS = {
    "CUDA_MEMORY_FRACTION": ("option.gpu_memory_utilization", "option.kv_cache_free_gpu_mem_fraction"),
}
"""Foreign variables that mean whichever of these keys the backend has."""

INVERSE_VARIABLES = {"ENABLE_CUDA_GRAPHS": "option.enforce_eager"}
"""Foreign switches that mean the opposite of the key."""

OVERRIDING_VARIABLES = {
    "SAGEMAKER_NUM_MODEL_WORKERS": ("minWorkers", "maxWorkers"),
    "SAGEMAKER_STARTUP_TIMEOUT": ("option.model_loading_timeout",),
    "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": ("option.predict_timeout",),
    "SAGEMAKER_MAX_REQUEST_SIZE": ("max_request_size",),
    "SAGEMAKER_ENABLE_STATEFUL_SESSIONS": ("option.enable_stateful_sessions",),
    "SAGEMAKER_SESSIONS_EXPIRATION": ("option.sessions_expiration",),
}
"""Variables of SageMaker's model servers, which beat even the model's own file. Source: LMI 0.29 and later."""

MASK = "***"
"""What is printed in place of a secret."""

_PAIR = re.compile(
    # The look behind changes no match; without it a long word is read anew from each of its letters.
    r"""(?<![A-Za-z_])(?P<name>[A-Za-z_][\w.-]*)(?P<sign>["']?\s*[=:]\s*)(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,}\s{\[][^,}\n]*)"""
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)|(?<=http://)[^/@\s]+(?=@)|(?<=https://)[^/@\s]+(?=@)")
_QUERY = re.compile(r"(?<=[?&])(?P<name>[\w.-]+)(?P<sign>=)(?P<value>[^&\s]+)")
_SIGNATURES = ("sig", "signature", "credential")
"""Last words of names in a URL's query that open what it leads to."""

_SECRET_ENDINGS = ("authtoken", "apikey", "passwd", "password", "secret")
"""Of names that other programs write without a mark between the words."""

_SECRET_WORDS = frozenset({"secret", "password", "pass", "passphrase", "passwd", "credentials"})
_SECRET_LAST_WORDS = frozenset({"token", "key", "keys"})
_NO_SUCH_NAME = ""
_SURELY_MISSPELT = 0.85
"""Likeness of two names (difflib's ratio) that is hardly chance."""


def canonical(written: str) -> str:
    """The one name of a key: ``option.<name>`` for options, the bare name for plain keys.

    ``dtype`` and ``option.dtype`` are the same option, ``option.job_queue_size`` is the plain ``job_queue_size``.
    """
    name = written.removeprefix(PREFIX)
    if name in RENAMED:
        return RENAMED[name]
    return name if name in PLAIN_KEYS or name in SERVER_KEYS else PREFIX + name


def from_variable(name: str) -> str:
    """The canonical key of a variable's name without ``OPTION_`` or ``SERVING_``.

    Upper case is lowered, names in mixed case pass as they are; camel-case keys are found by their letters alone, so
    ``ENTRYPOINT`` and ``MIN_WORKERS`` give ``option.entryPoint`` and ``minWorkers``.
    """
    if name != name.upper():
        return canonical(name)
    letters = _letters(name)
    for key in CAMEL_CASE_KEYS:
        if _letters(key.removeprefix(PREFIX)) == letters:
            return key
    return canonical(name.lower())


def former(setting_written: str) -> str:
    """The old name that a key was written under, or ""; ``OPTION_S3URL`` and ``option.s3url`` are ``s3url``."""
    name = setting_written.removeprefix("OPTION_").removeprefix(PREFIX).lower()
    return name if name in RENAMED else _NO_SUCH_NAME


def _letters(name: str) -> str:
    return name.replace("_", "").replace(".", "").lower()


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The candidate that looks most like the name, or "" where none is near. Case does not count."""
    return _nearest(name, tuple(sorted(candidates)))


@functools.lru_cache(maxsize=256)  # a configuration with mistakes is judged several times
def _nearest(name: str, candidates: tuple[str, ...]) -> str:
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else _NO_SUCH_NAME


def nearly(name: str, candidates: Iterable[str]) -> str:
    """The candidate that a name is hardly different from by chance, or ""."""
    found = difflib.get_close_matches(name, candidates, n=1, cutoff=_SURELY_MISSPELT)
    return found[0] if found else _NO_SUCH_NAME


def did_you_mean(name: str, candidates: Collection[str], otherwise: str = "") -> str:
    """The hint for a name that is not there: the nearest candidate, else ``otherwise``."""
    near = nearest(name, candidates)
    return f"Did you mean '{near}'?" if near else otherwise


def is_secret(name: str) -> bool:
    """Whether a value under this name must not be shown (``hf_token``, ``hfToken``, ``AWS_SECRET_ACCESS_KEY``).

    Tokens of text are counted, not hidden: ``smoothquant_per_token``, ``long_prefill_token_threshold``.
    """
    words = re.split(r"[._-]+|(?<=[a-z0-9])(?=[A-Z])", name)
    words = [word.lower() for word in words if word]
    if not words:
        return False
    is_last = words[-1] in _SECRET_LAST_WORDS and words[-2:-1] != ["per"]
    return is_last or not _SECRET_WORDS.isdisjoint(words) or words[-1].endswith(_SECRET_ENDINGS)


def shown(key: str, value: str) -> str:
    """The value as it may be printed: secrets masked, also inside of ``K=V,K2=V2``, JSON, broken JSON and URLs."""
    if is_secret(key):
        return MASK
    if "://" in value:
        value = _QUERY.sub(_masked, value)
    return _CREDENTIALS.sub(MASK, _PAIR.sub(_masked, value))


def _masked(pair: re.Match[str]) -> str:
    quote = pair["value"][:1] if pair["value"][:1] in "\"'" else ""
    is_hidden = is_secret(pair["name"]) or (pair.re is _QUERY and pair["name"].lower().endswith(_SIGNATURES))
    return f"{pair['name']}{pair['sign']}{quote}{MASK}{quote}" if is_hidden else pair[0]
