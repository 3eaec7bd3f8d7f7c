# SPDX-License-Identifier: Apache-2.0
"""Rules over several options at once: one function a rule, each naming where every value that it judges was set."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from lmi.api import TASK_NAMES, BackendConfig, BackendInfo, Launch, Problem, Severity, Task, task_named
from lmi.api.errors import enumerated
from lmi.config.batching import UNDECIDED, turned_off_by
from lmi.config.modes import MPI, PYTHON, deciding, mode_of
from lmi.config.names import did_you_mean
from lmi.config.options import ModelOptions
from lmi.config.settings import Settings
from lmi.config.unsupported import STOP_WORDS, Known, of_no_use

Rule = Callable[[ModelOptions, BackendConfig, Settings, BackendInfo], Iterator[Problem]]

_OTHER_TASKS = (
    "table-question-answering", "multiple-choice",
    "summarization", "translation", "zero-shot-classification", "visual-question-answering",
    "document-question-answering", "image-classification", "image-to-text", "object-detection", "text-to-image",
    "audio-classification", "automatic-speech-recognition", "reranking", "rerank", "text-ranking", "score", "reward",
)  # fmt: skip
"""Known tasks that LMI does with no backend."""


def workers_in_order(
    options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo
) -> Iterator[Problem]:
    """No more copies are started than there may be."""
    if options.min_workers > options.max_workers:
        yield Problem(
            code="config.conflict",
            message=f"minWorkers={options.min_workers} is more than maxWorkers={options.max_workers}",
            hint="Lower minWorkers or raise maxWorkers",
            source=sources(settings, "minWorkers", "maxWorkers"),
        )


def mode_is_taken(
    options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo
) -> Iterator[Problem]:
    """The backend can run as ``engine`` and ``mpi_mode`` say; one process is no matter where one device is used."""
    mode, modes = mode_of(settings), [each.lower() for each in info.modes]
    said = deciding(settings)
    if mode is None or said is None or not modes or mode in modes:
        return
    chosen = _shown(settings, "option.rolling_batch", "option.entryPoint")
    because = f" ({chosen})" if chosen else ""
    source = sources(settings, said.key, "option.rolling_batch", "option.entryPoint", "option.tensor_parallel_degree")
    if mode == MPI:
        yield Problem(
            code="config.conflict",
            message=f"{said.key}={said.value} asks for MPI, and {info.name}{because} runs under engine=Python only",
            hint=f"Set engine=Python or take the line {said.key}={said.value} out; {info.name} splits a model over "
            "devices by itself",
            source=source,
        )
    elif mode == PYTHON and config.tensor_parallel_degree > 1 and not options.async_mode:
        if (options.entry_point or "").lower() in (each.lower() for each in info.async_entry_points):
            return
        yield Problem(
            code="config.conflict",
            message=f"{said.key}={said.value} asks for one process, and {info.name}{because} with "
            f"tensor_parallel_degree={config.tensor_parallel_degree} runs under engine=MPI only",
            hint=f"Set engine=MPI or take the line {said.key}={said.value} out, or set tensor_parallel_degree=1",
            source=source,
        )


def ranks_are_started(
    options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo
) -> Iterator[Problem]:
    """Options of mpirun are for copies that it starts, and can be read."""
    n_ranks = config.tensor_parallel_degree
    is_spread = info.spans_machines and n_ranks > 1
    names = ("mpi_arguments",) if is_spread else ("mpi_hostfile", "mpi_arguments")
    asked = [name for name in names if getattr(options, name)]
    if asked and (info.launch is not Launch.CORE_MPI or n_ranks == 1):
        starts = f"{info.name} starts " + (
            "its processes by itself"
            if info.launch is not Launch.CORE_MPI
            else "one process where tensor_parallel_degree is 1"
        )
        yield Problem(
            code="config.conflict",
            message=f"{' and '.join(asked)} are for mpirun, and {starts}",
            hint="Take them out, or use a backend of engine=MPI with tensor_parallel_degree=2 or more",
            source=sources(settings, *(f"option.{name}" for name in asked)),
        )
    try:
        shlex.split(options.mpi_arguments)
    except ValueError as error:
        yield Problem(
            code="config.invalid-value",
            message=f"'option.mpi_arguments' is '{options.mpi_arguments}', which is no command line: {error}",
            hint="Close every quotation mark",
            source=sources(settings, "option.mpi_arguments"),
        )


def batches_beside_rolling(
    options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo
) -> Iterator[Problem]:
    """batch_size has no effect where rolling_batch names a backend; a backend with such an option judges itself."""
    setting = settings.get("batch_size")
    if setting is None or options.batch_size == 1 or "batch_size" in type(config).model_fields:
        return
    if turned_off_by(settings, info) is None:
        reason = f"continuous batching is on ({_shown(settings, 'option.rolling_batch', 'option.async_mode')})"
        yield of_no_use(setting, Known(reason, "Set option.max_rolling_batch_size instead"))


def delay_beside_rolling(
    options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo
) -> Iterator[Problem]:
    """max_batch_delay has no effect where no request waits for others."""
    setting = settings.get("max_batch_delay")
    if setting is None or options.max_batch_delay == type(options).model_fields["max_batch_delay"].default:
        return
    if turned_off_by(settings, info) is None:
        reason = "with continuous batching requests start at once, none waits for a batch to fill"
    elif options.batch_size == 1:
        reason = "with batch_size=1 no request waits for others"
    else:
        return
    yield of_no_use(setting, Known(reason, "Take it out"))


def rolling_size_beside_batches(
    options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo
) -> Iterator[Problem]:
    """max_rolling_batch_size has no effect while continuous batching is off."""
    off, size = turned_off_by(settings, info), settings.get("option.max_rolling_batch_size")
    if off is not None and size is not None and size.value != str(options.batch_size):
        reason = f"continuous batching is off ({off.key}={off.value}, {off.source})"
        hint = f"Take {off.key}={off.value} out, or set batch_size={size.value}"
        yield of_no_use(size, Known(reason, hint))


def streaming(options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo) -> Iterator[Problem]:
    """enable_streaming is old, does nothing beside continuous batching, and whole batches can't stream."""
    setting = settings.get("option.enable_streaming")
    if setting is None or options.enable_streaming == "false":
        return
    off = turned_off_by(settings, info)
    if off is None:
        reason = "with continuous batching each request says whether it streams"
        yield of_no_use(setting, Known(reason, "Send the field stream with each request, and take it out"))
    elif options.batch_size > 1 and not info.streams_batches:
        yield Problem(
            code="config.conflict",
            message=f"enable_streaming={setting.value} asks whole batches (batch_size={options.batch_size}, "
            f"{off.key}={off.value}) to stream",
            hint="Take batch_size out, which streams every request by itself, or take enable_streaming out",
            source=sources(settings, "option.enable_streaming", "batch_size", "option.rolling_batch"),
        )
    else:
        yield Problem(
            code="config.deprecated",
            message=f'enable_streaming={setting.value} is old; answers are lines of the form {{"outputs": [TEXT]}}',
            hint="Set option.output_formatter=jsonlines, or send the field stream with each request",
            source=setting.source,
            severity=Severity.WARNING,
        )


def stop_words(
    options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo
) -> Iterator[Problem]:
    """stop_sequence never applied to continuous batching; without it, it changed what clients got."""
    setting = settings.get(STOP_WORDS)
    if setting is None or setting.value.lower() in ("", "none", "[]"):
        return
    off = turned_off_by(settings, info)
    hint = "Send parameters.stop with each request"
    if off is None:
        yield of_no_use(setting, Known("it never applied to continuous batching", hint))
        return
    yield Problem(
        code="config.not-supported",
        message=f"stop_sequence={setting.value} is not supported: stop words for all requests come later",
        hint=hint,
        source=setting.source,
    )


def task_is_served(
    options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo
) -> Iterator[Problem]:
    """The backend does what ``option.task`` says; one that does nothing but generate may have an option of its own."""
    setting = settings.get("option.task")
    has_own = "task" in type(config).model_fields and info.tasks == (Task.GENERATE,)
    if setting is None or options.task is None or has_own:
        return
    name, task = options.task.lower(), task_named(options.task)
    if name == "auto" or task in info.tasks:
        return
    does = enumerated([each.does for each in info.tasks])
    if task is not None or name in _OTHER_TASKS:
        yield Problem(
            code="config.not-supported",
            message=f"'option.task' is '{options.task}'; {info.name} {does}",
            hint=f"Take option.task out: LMI does what the model was made for, if that is {', '.join(info.tasks)}",
            source=setting.source,
        )
        return
    served = [each for each, task in TASK_NAMES.items() if task in info.tasks]
    yield Problem(
        code="config.invalid-value",
        message=f"'option.task' is '{options.task}'; there is no such choice",
        hint=did_you_mean(name, (*TASK_NAMES, *_OTHER_TASKS), f"Choices: auto, {', '.join(served)}"),
        source=setting.source,
    )


def old_values(
    options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo
) -> Iterator[Problem]:
    """A value that the backend is still selected by has a successor."""
    for each in info.old_values:
        setting = settings.get(each.key)
        if setting is not None and setting.value.lower() == each.value.lower():
            yield Problem(
                code="config.deprecated",
                message=f"'{each.key}={setting.value}' is an old way to say {each.write}",
                hint=f"Write {each.write}",
                source=setting.source,
                severity=Severity.WARNING,
            )


def sources(settings: Settings, *keys: str) -> str:
    """Where somebody set the given keys, in their order."""
    found = (settings[key].source for key in keys if key in settings)
    return ", ".join(source for source in found if not source.startswith("default"))


def _shown(settings: Settings, *keys: str) -> str:
    """The first of these settings that names something, as ``rolling_batch=x``."""
    for key in keys:
        setting = settings.get(key)
        if setting is not None and setting.value.lower() not in UNDECIDED:
            return f"{key.removeprefix('option.')}={setting.value}"
    return ""


ANY_MODEL: tuple[Rule, ...] = (workers_in_order,)
"""Rules that hold for a model's own function, too."""

RULES: tuple[Rule, ...] = (
    *ANY_MODEL, mode_is_taken, ranks_are_started, batches_beside_rolling, delay_beside_rolling,
    rolling_size_beside_batches, streaming, stop_words, task_is_served, old_values,
)  # fmt: skip
