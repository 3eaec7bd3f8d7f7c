# SPDX-License-Identifier: Apache-2.0
"""Keys of LMI that are known here and are no options: those of no use any more, and those not supported.

One line a key. A backend that has an option of such a name is asked first; the tables are for all others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from lmi.api import Problem, Severity
from lmi.config.fields import matching_key
from lmi.config.settings import Setting, Settings

_FALSE = ("false", "0", "no", "off")
_NONE = ("none", "null")


@dataclass(frozen=True)
class Known:
    """What to say of a key.

    Args:
        reason: why it does nothing, or cannot be had.
        hint: what to do instead.
        harmless: values in lower case, its documented default among them, of which nothing needs to be said.
    """

    reason: str
    hint: str
    harmless: tuple[str, ...] = _NONE


_OUT = "Take it out"
_SPECULATION = "it makes answers faster, not different, and this backend does not draft tokens"
_SPECULATE = "Take it out, or use a backend that has option.speculative_draft_model"
_SESSIONS = "sessions are kept in memory"
_CACHE = "what is cached, and where, is up to the engine of this backend"
_JAVA = "LMI runs models from Python, without translators"
_MODEL_PY = "Serve a language model, or write a model.py with a function handle"

OF_NO_USE = {
    "log_request_metric": Known("/metrics counts every request", _OUT, _FALSE),
    "metrics_aggregation": Known("/metrics holds each number at any time", _OUT, ("1000",)),
    "option.model_dir": Known("the model's folder is known", "To name another one, set option.model_id", ()),
    "option.device_id": Known("each copy is given its devices", "CUDA_VISIBLE_DEVICES hides devices", ("-1",)),
    "option.max_output_size": Known("answers do not pass through a buffer of fixed size", _OUT, ("67108864",)),
    "option.paged_attention": Known("how its cache is kept is up to the backend", _OUT, ("true", *_NONE)),
    "option.waiting_steps": Known("a request is admitted as soon as there is room for it", _OUT),
    "option.modelName": Known("a model's files are found by what they are", _OUT, ()),
    "option.parallel_loading": Known("copies of a model load at the same time in any case", _OUT, _FALSE),
    "option.sessions_path": Known(_SESSIONS, _OUT),
    "option.lmcache_auto_config": Known(_CACHE, _OUT, _FALSE),
    "option.lmcache_config_file": Known(_CACHE, _OUT),
    "option.draft_model_id": Known(_SPECULATION, _SPECULATE),
    "option.spec_length": Known(_SPECULATION, _SPECULATE, ("0",)),
    "option.speculative_draft_model": Known(_SPECULATION, _SPECULATE),
    "option.speculative_length": Known(_SPECULATION, _SPECULATE, ("5", "4")),
}
"""Nothing is left to do for these: an answer is the same without them."""

NOT_SUPPORTED = {
    "option.enable_venv": Known(
        "LMI makes no environment for a model",
        "Make one with what the model needs, and set option.pythonExecutable to its Python", _FALSE,
    ),
    "option.cluster_size": Known(
        "a model runs on one machine", "Take a larger machine, or a compressed model", ("1",)
    ),
    "option.pipeline_parallel_degree": Known(
        "this backend does not spread layers over stages", "Use option.tensor_parallel_degree", ("1",)
    ),
    "option.bedrock_compat": Known(
        "requests in Bedrock's form are not read", "Send inputs and parameters, as LMI's schema has them", _FALSE
    ),
    "option.default_accept": Known(
        "the form of answers does not follow an accepted content type", "Set option.output_formatter",
        (*_NONE, "application/json", "*/*"),
    ),
    "option.adapters": Known(
        "a folder of adapters is read by a later version", "Merge the adapter into the model's weights", ("adapters",)
    ),
    "option.translatorFactory": Known(_JAVA, _MODEL_PY),
    "option.translator": Known(_JAVA, _MODEL_PY),
    "option.application": Known(_JAVA, _MODEL_PY),
}  # fmt: skip
"""Answers would be others without these, so a start with them fails."""

_LINES = "Use jsonlines, or a model.py with a function marked @output_formatter"
NOT_SUPPORTED_VALUES = {
    ("option.output_formatter", "none"): Known("answers of bare text have no room for what went wrong", _LINES),
}
"""Values that the option of this key does not take here."""

STOP_WORDS = "option.stop_sequence"
"""Of no use or not supported, depending on the batching; a rule judges it."""

KNOWN_KEYS = frozenset({*OF_NO_USE, *NOT_SUPPORTED, "max_dynamic_batch_size", STOP_WORDS})
"""Every key that something is known of although it is no option."""


def of_tables(settings: Settings, own_keys: Collection[str]) -> Iterator[tuple[Setting, list[Problem]]]:
    """The settings that these tables speak of, each with what is to be said of it, if anything.

    Args:
        settings: what was read.
        own_keys: keys that the core and the backend have as options.
    """
    for setting in settings.values():
        refused = NOT_SUPPORTED_VALUES.get((setting.key, setting.value.lower()))
        if refused is not None:
            yield setting, [_not_supported(setting, refused)]
        elif matching_key(setting, own_keys):
            continue
        elif key := matching_key(setting, OF_NO_USE):
            known = OF_NO_USE[key]
            yield setting, [] if setting.value.lower() in known.harmless else [of_no_use(setting, known)]
        elif key := matching_key(setting, NOT_SUPPORTED):
            known = NOT_SUPPORTED[key]
            yield setting, [] if setting.value.lower() in known.harmless else [_not_supported(setting, known)]


def of_no_use(setting: Setting, known: Known) -> Problem:
    """The warning for a setting that does nothing."""
    return Problem(
        code="config.of-no-use",
        message=f"'{setting.key}={setting.shown}' does nothing: {known.reason}",
        hint=known.hint,
        source=setting.source,
        severity=Severity.WARNING,
    )


def _not_supported(setting: Setting, known: Known) -> Problem:
    return Problem(
        code="config.not-supported",
        message=f"'{setting.key}={setting.shown}' is not supported: {known.reason}",
        hint=known.hint,
        source=setting.source,
    )
