# SPDX-License-Identifier: Apache-2.0
"""Arguments of vLLM's engine that LMI refuses or that change nothing under it, each with the reason."""

from __future__ import annotations

_COPIES = "LMI starts copies of a model itself, each with an engine of its own"
_MORE_COPIES = "Remove it; for more copies set minWorkers"
_MACHINES = "a copy in LMI runs on one machine"
_ONE_MACHINE = "Remove it; take a larger machine, or a compressed model"
_DEVICES = "LMI gives each copy its devices"
_OTHER_DEVICES = "Remove it; load_on_devices keeps a model off devices"
_TOKENIZER = "constraints and bad words need vLLM's tokenizer, and would fail in the middle of a request"
_UNASKED = "no request of LMI asks for what it yields, and it costs speed or memory"
_UNCALLED = "it waits for calls that LMI never makes"
_REMOVE = "Remove it"

REFUSED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            "data_parallel_address", "data_parallel_backend", "data_parallel_external_lb", "data_parallel_hybrid_lb",
            "data_parallel_multi_port_external_lb", "data_parallel_rank", "data_parallel_rpc_port",
            "data_parallel_size", "data_parallel_size_local", "data_parallel_start_rank",
            "disable_nccl_for_dp_synchronization", "dp_sync_interval", "aggregate_engine_logging",
            "elastic_ep_max_dp_size", "enable_elastic_ep", "enable_fault_tolerance", "fault_tolerance_config",
        ),
        (_COPIES, _MORE_COPIES),
    ),
    **dict.fromkeys(("nnodes", "node_rank", "master_addr", "master_port"), (_MACHINES, _ONE_MACHINE)),
    "ray_workers_use_nsight": ("LMI starts no Ray cluster", _REMOVE),
    "prefill_context_parallel_size": (
        "a copy in LMI has tensor_parallel_degree times pipeline_parallel_degree devices",
        "Remove it and split the model with option.tensor_parallel_degree",
    ),
    "device_ids": (_DEVICES, _OTHER_DEVICES),
    "disable_log_stats": ("LMI counts vLLM's steps by them, and would take a busy engine for a stalled one", _REMOVE),
    "skip_tokenizer_init": (_TOKENIZER, _REMOVE),
    "tokens_only": (_TOKENIZER, f"{_REMOVE}; LMI speaks token ids to vLLM anyway"),
    "max_num_queued_reqs": (
        "requests that go on after a worker died would be turned away", "Set job_queue_size, LMI's own limit"
    ),
    "max_num_queued_tokens": (
        "requests that go on after a worker died would be turned away", "Set job_queue_size, LMI's own limit"
    ),
    **dict.fromkeys(
        (
            "aux_output_config", "enable_prompt_embeds", "enable_return_routed_experts", "enable_trace_replay",
            "per_request_spec_decode_metrics", "return_sampling_mask",
        ),
        (_UNASKED, _REMOVE),
    ),
    **dict.fromkeys(
        (
            "enable_nccl_comm_suspend", "enable_sleep_mode", "profiler_config", "sleep_mode_offload_cudagraph",
            "sleep_preserve_parameter_names", "weight_transfer_config",
        ),
        (_UNCALLED, _REMOVE),
    ),
    "io_processor_plugin": ("it changes the face of vLLM's own server, which LMI does not use", _REMOVE),
    "logging_config": ("LMI reads how far a start is from vLLM's log", "Set option.log_level instead"),
    "log_config_file": ("LMI reads how far a start is from vLLM's log", "Set option.log_level instead"),
}  # fmt: skip
"""Argument -> why it cannot be set, and what to do instead."""

REFUSED_VALUES: dict[str, dict[str, tuple[str, str]]] = {
    "distributed_executor_backend": {
        "ray": ("LMI starts no Ray cluster", "Remove it; vLLM then starts its ranks itself"),
        "external_launcher": ("LMI starts one process of vLLM's for a copy", _REMOVE),
    },
    "runner": {"draft": ("a draft model is part of another one's engine", "Name it in option.speculative_config")},
}
"""Argument -> values of it that cannot be set."""

NO_EFFECT: dict[str, str] = {
    "code_revision": "the model's files are on this machine when vLLM reads them",
    "override_generation_config": "LMI gives each request its own parameters",
    "renderer_num_workers": "texts become tokens in LMI's server",
    "scheduling_policy": "requests of LMI have no priority, so the first come is the first served",
    "served_model_name": "clients and metrics see the name that LMI serves the model under",
    "interleave_mm_strings": "chat templates are filled in by LMI's server",
}
"""Argument -> why it changes nothing."""

NOT_ON_CPU: dict[str, str] = {
    "decode_context_parallel_size": "its attention does not split the cache along the context",
    "enable_cumem_allocator": "it allocates memory of accelerators",
    "enable_eplb": "it balances experts on accelerators alone",
}
"""Option that vLLM's build for the CPU refuses -> why."""

IDLE_ON_CPU: dict[str, str] = {
    "async_scheduling": "vLLM turns it off on CPU",
    "cpu_offload_gb_per_gpu": "the weights are in the host's memory anyway",
    "cudagraph_capture_sizes": "there are no graphs to capture on CPU",
    "enable_dbo": "vLLM turns it off on CPU",
    "max_cudagraph_capture_size": "there are no graphs to capture on CPU",
}
"""Option that changes nothing on CPU -> why."""

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Sizes of an attention head that the CPU kernels have. Source: vLLM 0.32, the backend CPU_ATTN; with another one the
first request kills the engine."""
