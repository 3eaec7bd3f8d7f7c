# SPDX-License-Identifier: Apache-2.0
"""Stand-in: the arguments of the LLM classes, as recorded; nothing here computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tensorrt_llm._standin.others import WaitingQueuePolicy


class CapacitySchedulerPolicy(str, Enum):
    MAX_UTILIZATION = "MAX_UTILIZATION"
    GUARANTEED_NO_EVICT = "GUARANTEED_NO_EVICT"
    STATIC_BATCH = "STATIC_BATCH"


class ContextChunkingPolicy(str, Enum):
    FIRST_COME_FIRST_SERVED = "FIRST_COME_FIRST_SERVED"
    EQUAL_PROGRESS = "EQUAL_PROGRESS"


class BatchingType(str, Enum):
    STATIC = "STATIC"
    INFLIGHT = "INFLIGHT"


class SamplerType(str, Enum):
    TRTLLMSampler = "TRTLLMSampler"
    TorchSampler = "TorchSampler"
    auto = "auto"


class LoadFormat(Enum):
    AUTO = 0
    DUMMY = 1
    VISION_ONLY = 2


@dataclass(kw_only=True)
class KvCacheConfig:
    enable_block_reuse: Any = True
    max_tokens: Any = None
    max_attention_window: Any = None
    sink_token_length: Any = None
    free_gpu_memory_fraction: Any = 0.9
    host_cache_size: Any = None
    onboard_blocks: Any = True
    cross_kv_cache_fraction: Any = None
    secondary_offload_min_priority: Any = None
    event_buffer_max_size: Any = 0
    attention_dp_events_gather_period_ms: Any = 5
    enable_partial_reuse: Any = True
    copy_on_partial_reuse: Any = True
    use_uvm: Any = False
    max_gpu_total_bytes: Any = 0
    dtype: Any = "auto"
    mamba_ssm_cache_dtype: Any = "auto"
    tokens_per_block: Any = 32
    use_kv_cache_manager_v2: Any = False
    max_util_for_resume: Any = 0.95


@dataclass(kw_only=True)
class DynamicBatchConfig:
    enable_batch_size_tuning: Any = True
    enable_max_num_tokens_tuning: Any = False
    dynamic_batch_moving_average_window: Any = 128


@dataclass(kw_only=True)
class SchedulerConfig:
    capacity_scheduler_policy: Any = CapacitySchedulerPolicy.GUARANTEED_NO_EVICT
    context_chunking_policy: Any = None
    dynamic_batch_config: Any = None
    waiting_queue_policy: Any = WaitingQueuePolicy.FCFS


@dataclass(kw_only=True)
class ExtendedRuntimePerfKnobConfig:
    multi_block_mode: Any = True
    enable_context_fmha_fp32_acc: Any = False
    cuda_graph_mode: Any = False
    cuda_graph_cache_size: Any = 0


@dataclass(kw_only=True)
class CudaGraphConfig:
    batch_sizes: Any = None
    max_batch_size: Any = 0
    enable_padding: Any = False


@dataclass(kw_only=True)
class CalibConfig:
    device: Any = "cuda"
    calib_dataset: Any = "cnn_dailymail"
    calib_batches: Any = 512
    calib_batch_size: Any = 1
    calib_max_seq_length: Any = 512
    random_seed: Any = 1234
    tokenizer_max_seq_length: Any = 2048


@dataclass(kw_only=True)
class BaseLlmArgs:
    model: Any
    tokenizer: Any = None
    tokenizer_mode: Any = "auto"
    custom_tokenizer: Any = None
    skip_tokenizer_init: Any = False
    trust_remote_code: Any = False
    tensor_parallel_size: Any = 1
    dtype: Any = "auto"
    revision: Any = None
    tokenizer_revision: Any = None
    model_kwargs: Any = None
    pipeline_parallel_size: Any = 1
    context_parallel_size: Any = 1
    gpus_per_node: Any = None
    moe_cluster_parallel_size: Any = None
    moe_tensor_parallel_size: Any = None
    moe_expert_parallel_size: Any = None
    enable_attention_dp: Any = False
    enable_lm_head_tp_in_adp: Any = False
    pp_partition: Any = None
    cp_config: Any = None
    load_format: Any = "auto"
    enable_lora: Any = False
    lora_config: Any = None
    kv_cache_config: Any = field(default_factory=dict)
    enable_chunked_prefill: Any = False
    guided_decoding_backend: Any = None
    batched_logits_processor: Any = None
    iter_stats_max_iterations: Any = None
    request_stats_max_iterations: Any = None
    peft_cache_config: Any = None
    scheduler_config: Any = field(default_factory=dict)
    cache_transceiver_config: Any = None
    sparse_attention_config: Any = None
    speculative_config: Any = None
    max_batch_size: Any = 2048
    max_input_len: Any = 1024
    max_seq_len: Any = None
    max_beam_width: Any = 1
    max_num_tokens: Any = 8192
    gather_generation_logits: Any = False
    num_postprocess_workers: Any = 0
    postprocess_tokenizer_dir: Any = None
    reasoning_parser: Any = None
    decoding_config: Any = None
    mpi_session: Any = None
    otlp_traces_endpoint: Any = None
    backend: Any = None
    return_perf_metrics: Any = False
    perf_metrics_max_requests: Any = 0
    orchestrator_type: Any = None
    env_overrides: Any = None


@dataclass(kw_only=True)
class TrtLlmArgs(BaseLlmArgs):
    enable_tqdm: Any = False
    workspace: Any = None
    fail_fast_on_attention_window_too_large: Any = False
    enable_build_cache: Any = False
    extended_runtime_perf_knob_config: Any = None
    calib_config: Any = field(default_factory=dict)
    quant_config: Any = field(default_factory=dict)
    embedding_parallel_mode: Any = "SHARDING_ALONG_VOCAB"
    fast_build: Any = False
    build_config: Any = None
    enable_prompt_adapter: Any = False
    max_prompt_adapter_token: Any = 0
    batching_type: Any = None
    normalize_log_probs: Any = False


@dataclass(kw_only=True)
class TorchLlmArgs(BaseLlmArgs):
    garbage_collection_gen0_threshold: Any = 20000
    cuda_graph_config: Any = field(default_factory=dict)
    attention_dp_config: Any = None
    disable_overlap_scheduler: Any = False
    moe_config: Any = field(default_factory=dict)
    nvfp4_gemm_config: Any = field(default_factory=dict)
    attn_backend: Any = "TRTLLM"
    sampler_type: Any = SamplerType.auto
    sampler_force_async_worker: Any = False
    enable_iter_perf_stats: Any = False
    enable_iter_req_stats: Any = False
    print_iter_log: Any = False
    batch_wait_timeout_ms: Any = 0
    batch_wait_timeout_iters: Any = 0
    batch_wait_max_tokens_ratio: Any = 0
    torch_compile_config: Any = None
    enable_autotuner: Any = True
    enable_layerwise_nvtx_marker: Any = False
    load_format: Any = LoadFormat.AUTO
    enable_min_latency: Any = False
    stream_interval: Any = 1
    force_dynamic_quantization: Any = False
    allreduce_strategy: Any = "AUTO"
    checkpoint_loader: Any = None
    checkpoint_format: Any = None
    kv_connector_config: Any = None
    mm_encoder_only: Any = False
    ray_worker_extension_cls: Any = None
    ray_placement_config: Any = None
    enable_sleep: Any = False
    use_cute_dsl_blockscaling_mm: Any = False
    use_cute_dsl_blockscaling_bmm: Any = False
    disable_flashinfer_sampling: Any = False
    max_stats_len: Any = 1000
    layer_wise_benchmarks_config: Any = field(default_factory=dict)
    backend: Any = "pytorch"
