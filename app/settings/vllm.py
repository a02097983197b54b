"""vLLM's flags that are no settings here: those without effect, and those that are refused.

As variables worker-vllm takes every flag in upper case; `VLLM_EXTRA_ARGS` and `VLLM_CONFIG_FILE`
have the flags themselves (vllm_options.py). Flags that mean the same as a setting are further names
of it (catalogue.py), those that mean nearly the same are translated (translations.py).

Source: src/args_builder.py and .cache/vllm_serve_flags.json (vLLM 0.27.1) of
runpod-workers/worker-vllm at 7a92503, 2026-08-20.
"""

from __future__ import annotations

OWN = "vLLM's own; SGLang's options are ENGINE_ARGS"
_GRAPHS = "SGLang captures CUDA graphs by itself (DISABLE_CUDA_GRAPH)"
_SCHEDULING = "SGLang schedules by itself"
_OBSERVING = "SGLang has its own metrics and traces (ENABLE_METRICS, ENGINE_ARGS)"
_PICTURES = "pictures are prepared here (MEDIA_PROCESSES); films are not taken"
_ADAPTERS = "adapters are asked for by their names, and have no biases"
_LOG = "a line for each request is always logged, its content at LOG_LEVEL=debug only"
_CODE = "no code of vLLM's runs here"
_MACHINES = "replicas on several machines are servers of their own, behind a router"
_VECTORS = "vectors are pooled as the model's files say"
_TLS = "SSL_CA_CERTS alone says that clients need a certificate"
_DISAGGREGATED = "prefill and decoding are not split over servers"

_NO_EFFECT: dict[str, tuple[str, ...]] = {
    "the engine is part of this process": (
        "VLLM_PORT",
        "VLLM_BASE_URL",
        "DATA_PARALLEL_BACKEND",
        "DISABLE_FRONTEND_MULTIPROCESSING",
    ),
    OWN: (
        "ADDITIONAL_CONFIG",
        "CALCULATE_KV_SCALES",
        "DECODE_CONTEXT_PARALLEL_SIZE",
        "DISABLE_CASCADE_ATTN",
        "ENABLE_EPLB",
        "EPLB_CONFIG",
        "EPLB_LOG_BALANCEDNESS",
        "EPLB_STEP_INTERVAL",
        "EPLB_WINDOW_SIZE",
        "EXPERT_PLACEMENT_STRATEGY",
        "KV_EVENTS_CONFIG",
        "KV_OFFLOADING_BACKEND",
        "KV_OFFLOADING_SIZE",
        "KV_SHARING_FAST_PREFILL",
        "LOGITS_PROCESSOR_PATTERN",
        "MAMBA_CACHE_DTYPE",
        "MAMBA_SSM_CACHE_DTYPE",
        "NUM_REDUNDANT_EXPERTS",
        "OVERRIDE_ATTENTION_DTYPE",
        "PT_LOAD_MAP_LOCATION",
        "SAFETENSORS_LOAD_STRATEGY",
        "USE_TQDM_ON_LOAD",
    ),
    _SCHEDULING: (
        "ASYNC_SCHEDULING",
        "DBO_DECODE_TOKEN_THRESHOLD",
        "DBO_PREFILL_TOKEN_THRESHOLD",
        "DISABLE_HYBRID_KV_CACHE_MANAGER",
        "ENABLE_DBO",
        "LONG_PREFILL_TOKEN_THRESHOLD",
        "MAX_LONG_PARTIAL_PREFILLS",
        "MAX_NUM_PARTIAL_PREFILLS",
        "PREFIX_CACHING_HASH_ALGO",
    ),
    _GRAPHS: ("COMPILATION_CONFIG", "CUDA_GRAPH_SIZES"),
    _OBSERVING: (
        "COLLECT_DETAILED_TRACES",
        "OTLP_TRACES_ENDPOINT",
        "SHOW_HIDDEN_METRICS_FOR_VERSION",
    ),
    "/v1/loads has it always": ("ENABLE_SERVER_LOAD_TRACKING",),
    _PICTURES: (
        "DISABLE_CHUNKED_MM_INPUT",
        "DISABLE_MM_PREPROCESSOR_CACHE",
        "ENABLE_MULTIMODAL_ENCODER_DATA_PARALLEL",
        "INTERLEAVE_MM_STRINGS",
        "MEDIA_IO_KWARGS",
        "MM_ENCODER_TP_MODE",
        "MM_PROCESSOR_CACHE_GB",
        "MM_PROCESSOR_CACHE_TYPE",
        "MM_SHM_CACHE_MAX_OBJECT_SIZE_MB",
        "SKIP_MM_PROFILING",
        "VIDEO_PRUNING_RATE",
    ),
    _ADAPTERS: ("DEFAULT_MM_LORAS", "ENABLE_LORA_BIAS"),
    _LOG: (
        "DISABLE_UVICORN_ACCESS_LOG",
        "ENABLE_LOG_OUTPUTS",
        "LOG_ERROR_STACK",
    ),
    "LOG_FORMAT, LOG_LEVEL and LOG_FILE say what is logged": ("LOG_CONFIG_FILE",),
    "grammars are llguidance's": (
        "GUIDED_DECODING_DISABLE_ADDITIONAL_PROPERTIES",
        "GUIDED_DECODING_DISABLE_ANY_WHITESPACE",
        "GUIDED_DECODING_DISABLE_FALLBACK",
        "STRUCTURED_OUTPUTS_CONFIG",
    ),
    "the model's files say whether it gives embeddings": ("CONVERT", "RUNNER", "TASK"),
    "SGLang recognises the form of a config, and fetches what the model needs": (
        "CONFIG_FORMAT",
        "IGNORE_PATTERNS",
    ),
    "the chat template decides it": ("CHAT_TEMPLATE_CONTENT_FORMAT",),
    "TOKENIZER_WORKERS is the number of serving processes": ("API_SERVER_COUNT",),
    "CORS_ORIGINS is all that browsers need": (
        "ALLOW_CREDENTIALS",
        "ALLOWED_HEADERS",
        "ALLOWED_METHODS",
    ),
    "certificates are always read again when they change": ("ENABLE_SSL_REFRESH",),
    "MAX_HEADER_BYTES bounds a request's head": ("H11_MAX_INCOMPLETE_EVENT_SIZE",),
    "KV_POOL_TOKENS and MEM_FRACTION_STATIC size the KV cache": ("KV_CACHE_MEMORY_BYTES",),
    "paths are the client's, whatever a proxy has taken off them": ("ROOT_PATH",),
    "the description of the API is always served": ("DISABLE_FASTAPI_DOCS",),
    "with tool_choice none the template sees no tools": ("EXCLUDE_TOOLS_WHEN_TOOL_CHOICE_NONE",),
    "every answer has X-Request-ID": ("ENABLE_REQUEST_ID_HEADERS",),
    "usage always says what the prefix cache had": ("ENABLE_PROMPT_TOKENS_DETAILS",),
    "the release is the image's": ("TRANSFORMERS_VERSION", "VLLM_VERSION", "VLLM_NIGHTLY"),
}
NO_EFFECT: dict[str, str] = {name: why for why, names in _NO_EFFECT.items() for name in names}
"""Variables and flags -> why they have no effect. Setting one logs a warning at the start."""

_REFUSED: dict[str, tuple[str, ...]] = {
    _CODE: (
        "IO_PROCESSOR_PLUGIN",
        "LOGITS_PROCESSORS",
        "MIDDLEWARE",
        "SCHEDULER_CLS",
        "TOOL_PARSER_PLUGIN",
        "WORKER_CLS",
        "WORKER_EXTENSION_CLS",
    ),
    _MACHINES: (
        "DATA_PARALLEL_ADDRESS",
        "DATA_PARALLEL_HYBRID_LB",
        "DATA_PARALLEL_RANK",
        "DATA_PARALLEL_RPC_PORT",
        "DATA_PARALLEL_SIZE_LOCAL",
        "DATA_PARALLEL_START_RANK",
    ),
    _VECTORS: ("OVERRIDE_POOLER_CONFIG", "POOLER_CONFIG"),
    _TLS: ("SSL_CERT_REQS",),
    _DISAGGREGATED: ("KV_TRANSFER_CONFIG",),
    "no file of this machine is opened for a request": ("ALLOWED_LOCAL_MEDIA_PATH",),
    "the model's own processor prepares pictures, as its files say": ("MM_PROCESSOR_KWARGS",),
    "SGLang takes a model's code from MODEL_REVISION": ("CODE_REVISION",),
    "the config is the model's own, which HF_OVERRIDES can change": ("HF_CONFIG_PATH",),
    "log-probabilities are the model's own (raw_logprobs)": ("LOGPROBS_MODE",),
    "tokens in log-probabilities are text": ("RETURN_TOKENS_AS_TOKEN_IDS",),
    "prompts are text or token ids": ("ENABLE_PROMPT_EMBEDS",),
    "no template of a client's is run": ("TRUST_REQUEST_CHAT_TEMPLATE",),
    "there are no routes /sleep and /wake_up": ("ENABLE_SLEEP_MODE",),
    "there is no route /tokenizer_info": ("ENABLE_TOKENIZER_INFO_ENDPOINT",),
    "this server runs no tools": ("TOOL_SERVER",),
}
REFUSED: dict[str, str] = {name: why for why, names in _REFUSED.items() for name in names}
"""Variables and flags -> why the start stops at them: without them the server would be another."""

HARMLESS: dict[str, str] = {
    "LOGPROBS_MODE": "raw_logprobs",
    "CHAT_TEMPLATE_CONTENT_FORMAT": "auto",
    "API_SERVER_COUNT": "1",
    "DATA_PARALLEL_SIZE_LOCAL": "1",
    "DECODE_CONTEXT_PARALLEL_SIZE": "1",
}
"""The value of such a name that asks for what is so anyway."""

# -- flags that worker-vllm has no variables for -------------------------------------------------

_FLAGS_WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    "HOST and PORT apply here": ("host", "port"),
    OWN: (
        "all2all-backend", "allow-deprecated-quantization", "attention-config", "cohere-format",
        "cohere-is-reasoning-model", "cp-kv-cache-interleave-size",
        "cpu-distributed-timeout-seconds", "cpu-offload-params", "dcp-comm-backend",
        "dcp-kv-cache-interleave-size", "disable-nccl-for-dp-synchronization",
        "distributed-timeout-seconds", "dp-supervisor-probe-failure-threshold",
        "dp-supervisor-probe-interval-s", "dp-supervisor-probe-timeout-s",
        "enable-bf16x3-router-gemm", "enable-cumem-allocator", "enable-elastic-ep",
        "enable-ep-weight-filter", "enable-fault-tolerance", "enable-flash-late-interaction",
        "enable-flashinfer-autotune", "enable-mamba-cache-stochastic-rounding",
        "enable-offline-docs", "fail-on-environ-validation", "fault-tolerance-config",
        "fingerprint-mode", "fingerprint-value", "gdn-prefill-backend", "ir-op-priority",
        "kda-prefill-backend", "kernel-config", "kv-cache-dtype-skip-layers", "linear-backend",
        "mamba-backend", "mamba-block-size", "mamba-cache-mode", "mamba-cache-philox-rounds",
        "mamba-ssu-algorithm", "moe-backend", "numa-bind", "numa-bind-cpus", "numa-bind-nodes",
        "offload-backend", "offload-group-size", "offload-num-in-group", "offload-params",
        "offload-prefetch-step", "optimization-level", "performance-mode",
        "prefill-context-parallel-size", "quantization-config", "reasoning-config",
        "renderer-num-workers", "replayssm-buffer-len", "safetensors-prefetch-block-size",
        "safetensors-prefetch-num-threads", "use-fp64-gumbel", "use-replayssm",
    ),
    _SCHEDULING: (
        "max-num-scheduled-tokens", "prefill-schedule-interval", "prefix-match-unit",
        "scheduler-reserve-full-isl", "ubatch-size",
    ),
    _GRAPHS: ("cudagraph-capture-sizes", "max-cudagraph-capture-size"),
    _OBSERVING: (
        "aggregate-engine-logging", "cudagraph-metrics", "enable-layerwise-nvtx-tracing",
        "enable-logging-iteration-details", "enable-mfu-metrics", "enable-per-request-metrics",
        "jit-monitor-mode", "jit-monitor-verbose", "kv-cache-metrics", "kv-cache-metrics-sample",
        "profiler-config",
    ),
    _LOG: ("disable-access-log-for-endpoints", "enable-log-deltas"),
    _PICTURES: (
        "mm-encoder-attn-backend", "mm-encoder-attn-dtype", "mm-encoder-fp8-scale-path",
        "mm-encoder-fp8-scale-save-margin", "mm-encoder-fp8-scale-save-path", "mm-hasher-algorithm",
        "mm-ipc-gpu-memory-gb", "mm-tensor-ipc", "video-pruning-method",
    ),
    _ADAPTERS: (
        "enable-mixed-moe-lora-format", "enable-moe-shared-loras", "enable-tower-connector-lora",
        "specialize-active-lora",
    ),
}  # fmt: skip
FLAGS_WITHOUT_EFFECT: dict[str, str] = {
    flag: why for why, flags in _FLAGS_WITHOUT_EFFECT.items() for flag in flags
}

_REFUSED_FLAGS: dict[str, tuple[str, ...]] = {
    _CODE: ("model-class-overrides", "reasoning-parser-plugin"),
    _MACHINES: (
        "data-parallel-external-lb", "data-parallel-multi-port-external-lb",
        "data-parallel-supervisor-port", "headless", "master-addr", "master-port",
    ),
    _DISAGGREGATED: ("ec-transfer-config", "mm-encoder-only", "tokens-only"),
    "ciphers are those of the installed OpenSSL for TLS 1.2 and later": ("ssl-ciphers",),
    "prompts are text or token ids": ("enable-mm-embeds",),
    "answers are tokens of a language model": ("diffusion-config", "enable-return-routed-experts"),
    "a request's chat_template_kwargs say it": ("default-chat-template-kwargs",),
    "CUDA_VISIBLE_DEVICES chooses the GPUs": ("device-ids",),
    "this server speaks HTTP alone": ("grpc",),
    "answers carry no watermark": ("watermark",),
    "weights are those that were loaded": ("weight-transfer-config",),
    "one file of flags is read, that of VLLM_CONFIG_FILE": ("config",),
}  # fmt: skip
REFUSED_FLAGS: dict[str, str] = {
    flag: why for why, flags in _REFUSED_FLAGS.items() for flag in flags
}
