# SPDX-License-Identifier: Apache-2.0
"""The core's own options of a model; a backend's options are in its BackendConfig."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from lmi.api import option

_SAME_FORMAT = {
    "llama4_json": "llama3_json",
    **dict.fromkeys(("deepseek_r1", "deepseek_v3", "glm45", "qwen3"), "think"),
}
"""Names of parsers that users know -> the one of the format."""


def _workers(key: str, devices: str) -> Any:
    """``minWorkers`` or ``maxWorkers`` of one kind of device."""
    bare = key.partition(".")[2]
    description = f"Takes the place of {bare} on {devices}."
    return option(None, alias=key, description=description, unit="workers", ge=1)


class ModelOptions(BaseModel):
    """What the core itself does with a model. Field names are Python's, aliases are LMI's keys where they differ."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), populate_by_name=True, allow_inf_nan=False
    )

    # where the model is
    model_id: str | None = option(
        None,
        description="The model: a folder, an archive (.tar.gz, .tgz, .tar, .zip), a prefix in an object store (s3://, "
        "gs://, az://), or ORG/NAME on the hub. Unset: the folder that is served.",
    )
    revision: str | None = option(None, description="Branch, tag or commit of a model from the hub.")
    task: str | None = option(
        None,
        description="What the model does: text-generation, text-embedding (or feature-extraction), "
        "text-classification, token-classification, fill-mask or question-answering. Unset or auto: what it was made "
        "for, as its files say.",
    )

    normalize: bool = option(
        True, description="Vectors of embedding models get the length 1; requests may say so, too."
    )

    # what serves it
    engine: str | None = option(None, description="How the worker runs (Python or MPI), or a name a backend gives it.")
    entry_point: str | None = option(
        None,
        alias="entryPoint",
        description="The original LMI module that served this model, which selects its successor, or "
        "the model's own Python file. Unset: model.py, where the folder has one.",
    )
    function: str = option(
        "handle", alias="handler", description="The function of a model's own Python file that answers requests."
    )
    rolling_batch: str = option(
        "auto", description="The backend, by a name it answers to; auto chooses by model and device."
    )
    mpi_mode: bool = option(
        False, description="The same as engine=MPI: one process a rank under mpirun, where the backend wants it."
    )
    mpi_hostfile: str | None = option(
        None,
        description="File with the machines of one copy and their slots, as mpirun reads it, this machine first. Set "
        "it to split a model over several machines.",
    )
    mpi_arguments: str = option(
        "", description="Further arguments of mpirun, as on a command line, for a network or a binding of your own."
    )
    device: Literal["auto", "cpu", "cuda", "neuron"] = option(
        "auto", description="The kind of device to use; auto takes the accelerator if there is one."
    )

    # its workers
    python_executable: str | None = option(
        None, alias="pythonExecutable", description="The Python that runs the worker. Unset: the server's own."
    )
    install_requirements: bool = option(
        False,
        description="Install the model's requirements.txt into the worker's Python before it starts. Turn on only for "
        "models you trust.",
    )
    env: dict[str, str] = option(
        {}, description="Further variables of the worker's environment: K=V,K2=V2.", repr=False
    )
    load_on_devices: str = option(
        "*", description="The devices that copies may have: gpu0;gpu2, nc0;nc1 (cores), 0;2, cpu (or -1), or * for all."
    )
    min_workers: int = option(
        1,
        alias="minWorkers",
        description="Copies of the model that are started. Unset: one on CPU; elsewhere as many as the devices hold.",
        unit="workers",
        ge=1,
    )
    max_workers: int = option(
        1,
        alias="maxWorkers",
        description="Most copies: more start while over two full batches wait. Unset: on CPU as many as minWorkers, "
        "elsewhere as many as the devices hold.",
        unit="workers",
        ge=1,
    )
    gpu_min_workers: int | None = _workers("gpu.minWorkers", "GPUs")
    gpu_max_workers: int | None = _workers("gpu.maxWorkers", "GPUs")
    nc_min_workers: int | None = _workers("nc.minWorkers", "NeuronCores")
    nc_max_workers: int | None = _workers("nc.maxWorkers", "NeuronCores")
    cpu_min_workers: int | None = _workers("cpu.minWorkers", "CPU")
    cpu_max_workers: int | None = _workers("cpu.maxWorkers", "CPU")
    max_idle_time: float = option(
        60, description="A copy beyond minWorkers that had no request for this long is stopped.", unit="s", gt=0
    )
    retry_threshold: int = option(
        10, description="Deaths of workers after which the model counts as failed.", unit="deaths", ge=0
    )
    model_loading_timeout: float = option(1800, description="Longest time a model may load.", unit="s", gt=0)
    heartbeat_interval: float = option(
        1, description="Time between two signs of life from a worker.", unit="s", gt=0, le=60
    )
    stall_timeout: float = option(
        60, description="A worker with live requests and no step for this long counts as stalled.", unit="s", gt=0
    )

    required_memory_mb: int = option(
        0, description="Host memory that must be free before the model is loaded.", unit="MB", ge=0
    )
    reserved_memory_mb: int = option(
        500, description="Host memory that must be free beyond required_memory_mb. 0 keeps none.", unit="MB", ge=0
    )
    gpu_required_memory_mb: int = option(
        0,
        alias="gpu.required_memory_mb",
        description="Memory that each GPU must have before the model is loaded.",
        unit="MB",
        ge=0,
    )
    gpu_reserved_memory_mb: int = option(
        500,
        alias="gpu.reserved_memory_mb",
        description="Memory that each GPU must have beyond gpu.required_memory_mb.",
        unit="MB",
        ge=0,
    )

    # its requests
    batch_size: int = option(
        1,
        description="Requests that run together while continuous batching is off (rolling_batch=disable). Above 1 it "
        "turns continuous batching off, unless rolling_batch names a backend. max_rolling_batch_size is the better "
        "choice.",
        unit="requests",
        ge=1,
    )
    max_batch_delay: int = option(
        100,
        description="While continuous batching is off and batch_size is above 1: longest that a request waits for "
        "others, which then go to the engine together with it.",
        unit="ms",
        ge=0,
    )
    max_client_batch_size: int = option(
        128, description="Most texts of one request that wants each of a list completed.", unit="texts", ge=1
    )
    async_mode: bool = option(
        False,
        description="Requests reach the engine as they come, which is always so; rolling_batch=disable then leaves "
        "batching to the engine instead of turning it off.",
    )
    enable_streaming: Literal["true", "false", "huggingface"] = option(
        "false",
        description='Old: while continuous batching is off, answer in lines of the form {"outputs": [TEXT]}, one a '
        "token. Use the request's field stream.",
    )
    predict_timeout: float | None = option(
        None, description="Time after which a request ends with what it has. Unset: see deadline_s.", unit="s", gt=0
    )
    deadline_s: float | None = option(
        None,
        description="The same as predict_timeout; of both the shorter holds, also for callers who say how long they "
        "wait (deadline_s in X-Amzn-SageMaker-Custom-Attributes). Where neither is set: 58 for a request and 478 for a "
        "stream on SageMaker, which waits 60 and 480. Raise it for asynchronous endpoints.",
        unit="s",
        gt=0,
    )
    job_queue_size: int = option(1000, description="Requests that may wait; more are refused.", unit="requests", ge=1)
    max_request_size: int = option(
        67_108_864, description="Largest body of a request; larger ones are refused.", unit="bytes", ge=1
    )
    enable_stateful_sessions: bool = option(
        True, description="Whether callers may open sessions, which keep what they have said."
    )
    sessions_expiration: float = option(
        1200, description="Time from the last request of a session to its end.", unit="s", gt=0
    )
    sessions_memory_mb: int = option(
        64, description="Most that all sessions of a model keep in memory; beyond that requests are refused.",
        unit="MB", ge=1,
    )  # fmt: skip
    output_formatter: Literal["json", "jsonlines", "sse"] | None = option(
        None,
        description="Form of answers. jsonlines and sse (server-sent events) stream every answer. Unset: json, and "
        "jsonlines for requests with stream.",
    )
    tgi_compat: bool = option(
        False,
        description="Answers as text-generation-inference gives them, on its route POST /, too: a list of one, with "
        "its names in details, and server-sent events for streams.",
    )
    error_status: Literal["http", "lmi"] = option(
        "http",
        description="HTTP status of failures on LMI's routes. http: 400 for wrong requests, 429 where the queue is "
        "full, and so on; lmi: as LMI has had them, 424 for most.",
    )
    unknown_parameters: Literal["refuse", "warn"] = option(
        "refuse",
        description="What becomes of parameters that nobody knows, or that the backend does not offer. warn: they are "
        "left out, as LMI has done, with a line in the log for each name.",
    )
    chat_template: str | None = option(
        None,
        description="Chat template, or the path of a file with one (absolute, or in the model's folder), instead of "
        "the model's own. Unset: chat_template.jinja, chat_template.json or tokenizer_config.json beside the model.",
    )
    chat_template_content_format: Literal["auto", "string", "openai"] = option(
        "auto",
        description="Whether the template wants the content of a message as text or as OpenAI's list of parts. auto: "
        "as the template reads.",
    )
    tool_call_parser: Literal["auto", "none", "hermes", "llama3_json", "mistral", "json"] = option(
        "auto",
        description="How calls of tools are found in the model's text, by the name of its family's format. auto: as "
        "the chat template shows it, else as the model's family writes; none: calls are left in the text.",
    )
    reasoning_parser: Literal["auto", "none", "think", "mistral"] = option(
        "auto",
        description="How reasoning is told from the answer: think, as Qwen3 and DeepSeek-R1 mark it (qwen3 and "
        "deepseek_r1 mean the same), or mistral, as Magistral does. auto: as the chat template shows it; none: it is "
        "left in the text.",
    )

    @field_validator("tool_call_parser", "reasoning_parser", mode="before")
    @classmethod
    def _with_one_name(cls, value: Any) -> Any:
        """Families that write one format have one name."""
        return _SAME_FORMAT.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _as_many_as_started(cls, values: Any) -> Any:
        """minWorkers alone means exactly so many copies."""
        if isinstance(values, dict) and not {"max_workers", "maxWorkers"} & values.keys():
            started = values.get("min_workers", values.get("minWorkers"))
            if str(started).isdecimal() and int(str(started)) > 0:  # otherwise minWorkers alone is told
                return {**values, "max_workers": started}
        return values
