"""Every setting of the server: the table, one declaration each.

A setting is one field; each further name that it is known by is one more string in its
declaration. load.py says where the values come from. docs/settings.md is generated from this file
(`make docs`).
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SecretStr

from app.settings.declare import (
    BatchTokens,
    ContextLength,
    Declaration,
    Device,
    Images,
    LogLevel,
    Names,
    Options,
    PathsByName,
    Quantization,
    Secrets,
    Section,
    TensorParallel,
    declarations,
)

MODEL = Section("Model")
ENGINE = Section("Engine")
SERVER = Section("Server")
BOUNDS = Section("Bounds")
PICTURES = Section("Pictures")
ADAPTERS = Section("LoRA adapters")
STORE = Section("Stored responses")
FILES = Section("Files")
LOGS = Section("Logs and metrics")
WARM_UP = Section("Warm-up")
HATHORA = Section("Hathora and Google Cloud")
RUNPOD = Section("RunPod serverless")
SOURCES = Section("Files of settings")
OTHERS = Section("Other servers' settings")


_ANY = "*"
GENERIC_NAMES = ("sglang", "default")
"""Accepted for any served model, beside its own names."""
ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")


class Settings(BaseModel):
    """The effective configuration."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    # -- the model --------------------------------------------------------------------------------
    engine: Literal["sglang", "sglang-public", "scripted"] = MODEL.setting(
        "sglang",
        "ENGINE",
        help="`sglang` runs the model. `sglang-public` runs it by SGLang's public API only, as "
        "happens by itself with a release in which something has moved. `scripted` runs none: "
        "every endpoint answers by a script, for trying the API out and for tests.",
    )
    model_path: str = MODEL.engine_option(
        "MODEL_PATH",
        "MODEL_NAME",
        "MODEL",
        "MODEL_ID",
        default="meta-llama/Meta-Llama-3.1-8B-Instruct",
        help="Local folder or Hugging Face repository of the model.",
    )
    model_cache: str = MODEL.setting(
        "/runpod-volume/huggingface-cache/hub",
        "MODEL_CACHE",
        empty_is_a_value=True,
        help="Folder in the form of Hugging Face's cache, such as RunPod's of the models on its "
        "machines. A model that is complete there is served from there, and the hub is not asked. "
        "Empty: not looked at.",
    )
    cache_dir: str = MODEL.setting(
        "~/.cache/serve-hathora", "CACHE_DIR", help="Where the demo model is kept."
    )
    demo: bool = MODEL.setting(
        False,
        "DEMO",
        help="Serve the small demo model (SmolLM2-135M-Instruct), fetched on first use.",
    )
    served_model_name: Names = MODEL.setting(
        (),
        "SERVED_MODEL_NAME",
        "OPENAI_SERVED_MODEL_NAME_OVERRIDE",
        help="Name of the model in the API; further names, separated by commas, are aliases, and "
        "`*` is any name: `my-model,*`. Default: MODEL_PATH.",
    )
    revision: str | None = MODEL.engine_option(
        "MODEL_REVISION", "REVISION", help="Branch, tag or commit of the model's repository."
    )
    tokenizer_path: str | None = MODEL.engine_option(
        "TOKENIZER_PATH",
        "TOKENIZER",
        "TOKENIZER_NAME",
        help="Tokenizer, if it is not beside the model.",
    )
    tokenizer_revision: str | None = MODEL.setting(
        None, "TOKENIZER_REVISION", help="Branch, tag or commit of TOKENIZER_PATH's repository."
    )
    hf_token: SecretStr | None = MODEL.setting(
        None,
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        help="Hugging Face token, for models that are gated or private.",
    )
    download_dir: str | None = MODEL.engine_option(
        "DOWNLOAD_DIR",
        help="Where weights are downloaded to. Default: Hugging Face's cache (HF_HOME).",
    )
    tokenizer_mode: str | None = MODEL.engine_option(
        "TOKENIZER_MODE", help="`auto` takes the fast tokenizer if there is one."
    )
    chat_template: str | None = MODEL.engine_option(
        "CHAT_TEMPLATE",
        help="Name of one of SGLang's templates, or a path. Default: the model's own.",
    )
    tool_call_parser: str | None = MODEL.engine_option(
        "TOOL_CALL_PARSER",
        "DYN_TOOL_CALL_PARSER",
        default="auto",
        help="SGLang's name for the format in which the model calls tools (other servers' names "
        "are taken, too). `auto`: by its chat template; `none`: as text, in the Hermes format.",
    )
    reasoning_parser: str | None = MODEL.engine_option(
        "REASONING_PARSER",
        "DYN_REASONING_PARSER",
        default="auto",
        help="SGLang's name for the format in which the model thinks. `auto`: by its chat "
        "template; `none`: thinking stays in the text.",
    )
    custom_chat_template: str | None = MODEL.setting(
        None, "CUSTOM_CHAT_TEMPLATE", help="Chat template as Jinja text, instead of CHAT_TEMPLATE."
    )
    reasoning_alias: bool = MODEL.setting(
        False,
        "REASONING_ALIAS",
        help="Answers carry the thinking as `reasoning`, beside `reasoning_content`.",
    )
    responses_reasoning: Literal["auto", "text", "summary", "hidden"] = MODEL.setting(
        "auto",
        "RESPONSES_REASONING",
        help="How `/v1/responses` shows the thinking: as text, as a summary (all of it, in the "
        "place of one), or only encrypted; `auto`: as a summary if the client asks for one.",
    )
    messages_thinking: Literal["off", "template"] = MODEL.setting(
        "off",
        "MESSAGES_THINKING",
        help="Whether a request of `/v1/messages` that does not say so has the model think: "
        "`template` leaves it to the chat template.",
    )
    trust_remote_code: bool = MODEL.engine_option(
        "TRUST_REMOTE_CODE",
        default=False,
        help="Run Python code that comes with the model's files.",
    )
    load_format: str | None = MODEL.engine_option(
        "LOAD_FORMAT", help="Format of the weights (`auto`, `safetensors`, `pt`, `dummy`, ...)."
    )
    dtype: str | None = MODEL.engine_option(
        "DTYPE",
        help="Data type of weights and activations (`auto`, `bfloat16`, `half`, ...). `auto` is "
        "the model's own; on a CPU without bfloat16, float32.",
    )
    quantization: Quantization = MODEL.engine_option(
        "QUANTIZATION", help="Quantization method of the weights (`fp8`, `awq`, `gptq`, ...)."
    )
    kv_cache_dtype: str | None = MODEL.engine_option(
        "KV_CACHE_DTYPE", help="Data type of the KV cache."
    )
    context_length: ContextLength = MODEL.engine_option(
        "CONTEXT_LENGTH",
        "MAX_MODEL_LEN",
        ge=1,
        help="The model's context in tokens; also `32k` (32,000) or `32K` (32,768). Default, and "
        "`auto`: the one in its config.",
    )
    quantization_param_path: str | None = MODEL.engine_option(
        "QUANTIZATION_PARAM_PATH", help="File with the scaling factors of an fp8 KV cache."
    )
    model_loader_extra_config: Options = MODEL.setting(
        {}, "MODEL_LOADER_EXTRA_CONFIG", help="Options of the model loader, as a JSON object."
    )
    rope_scaling: Options = MODEL.setting(
        {}, "ROPE_SCALING", help="`rope_scaling` of the model's config, as a JSON object."
    )
    rope_theta: float | None = MODEL.setting(
        None, "ROPE_THETA", gt=0, help="`rope_theta` of the model's config."
    )

    config_overrides: Options = MODEL.setting(
        {}, "HF_OVERRIDES", help="Other fields of the model's config, as a JSON object."
    )
    model_impl: str | None = MODEL.engine_option(
        "MODEL_IMPL",
        help="`sglang` or `transformers`: whose code of the model runs. Default: SGLang's if it "
        "has any.",
    )
    default_sampling: Options = MODEL.setting(
        {},
        "DEFAULT_SAMPLING",
        "OVERRIDE_GENERATION_CONFIG",
        help="`temperature`, `top_p`, `top_k`, `min_p` and `repetition_penalty` of requests that "
        "say nothing of them, as a JSON object: before those of the model's "
        "`generation_config.json`.",
    )

    # -- the engine -------------------------------------------------------------------------------
    device: Device = ENGINE.setting(
        None,
        "DEVICE",
        help="`cuda`, `cpu`, ... The start stops if the device is missing. Default: "
        "the GPU if there is one, else the CPU.",
    )
    tp_size: TensorParallel = ENGINE.engine_option(
        "TP_SIZE",
        "TENSOR_PARALLEL_SIZE",
        help="GPUs that one model is split over; `auto`: as many of the visible ones as its heads "
        "allow. Default: 1, but `auto` for gpt-oss-120b.",
    )
    pp_size: int | None = ENGINE.engine_option(
        "PIPELINE_PARALLEL_SIZE",
        "PP_SIZE",
        ge=1,
        help="Stages that the model's layers are split into.",
    )
    expert_parallel: bool = ENGINE.setting(
        False,
        "ENABLE_EXPERT_PARALLEL",
        help="Split the experts of a mixture, too: SGLang's `ep_size` becomes TP_SIZE.",
    )
    nnodes: int = ENGINE.engine_option(
        "NNODES", default=1, ge=1, help="Machines that one model is split over; docs/scaling.md."
    )
    node_rank: int = ENGINE.engine_option(
        "NODE_RANK",
        default=0,
        ge=0,
        help="Which of them this is; 0 serves, the others only answer health.",
    )
    dist_init_addr: str | None = ENGINE.engine_option(
        "DIST_INIT_ADDR", help="host:port of node 0, where the machines meet."
    )
    dp_size: int | None = ENGINE.engine_option(
        "DATA_PARALLEL_SIZE", "DP_SIZE", ge=1, help="Replicas of the model in this engine."
    )
    load_balance_method: str | None = ENGINE.engine_option(
        "LOAD_BALANCE_METHOD", help="How requests are spread over replicas."
    )
    mem_fraction_static: float | None = ENGINE.engine_option(
        "MEM_FRACTION_STATIC", gt=0, lt=1, help="Part of the memory for weights and KV cache."
    )
    kv_pool_tokens: int | None = ENGINE.engine_option(
        "KV_POOL_TOKENS",
        sglang="max_total_tokens",
        ge=1,
        help="Size of the KV cache in tokens (SGLang's `max_total_tokens`).",
    )
    max_running_requests: int | None = ENGINE.engine_option(
        "MAX_RUNNING_REQUESTS", "MAX_NUM_SEQS", ge=1, help="Requests in one batch of the engine."
    )
    chunked_prefill_size: int | None = ENGINE.engine_option(
        "CHUNKED_PREFILL_SIZE",
        ge=-1,
        help="Tokens in one chunk of a prefill; -1 switches chunking off.",
    )
    chunked_prefill: bool | None = ENGINE.setting(
        None,
        "CHUNKED_PREFILL",
        "ENABLE_CHUNKED_PREFILL",
        help="False: as CHUNKED_PREFILL_SIZE=-1. Default: SGLang's choice, which is to chunk.",
    )
    max_prefill_tokens: BatchTokens = ENGINE.engine_option(
        "MAX_PREFILL_TOKENS",
        "MAX_NUM_BATCHED_TOKENS",
        ge=0,
        help="Tokens in one prefill batch; 0: SGLang's choice.",
    )
    schedule_policy: str | None = ENGINE.engine_option(
        "SCHEDULE_POLICY",
        "SCHEDULING_POLICY",
        help="Order of the engine's queue (`fcfs`, `lpm`, ...).",
    )
    schedule_conservativeness: float | None = ENGINE.engine_option(
        "SCHEDULE_CONSERVATIVENESS",
        gt=0,
        help="Higher: fewer requests are retracted under memory pressure.",
    )
    stream_interval: int | None = ENGINE.engine_option(
        "STREAM_INTERVAL", ge=1, help="Tokens between two pieces of a stream."
    )
    random_seed: int | None = ENGINE.engine_option(
        "RANDOM_SEED", "SEED", help="Seed of the engine."
    )
    attention_backend: str | None = ENGINE.engine_option(
        "ATTENTION_BACKEND",
        "VLLM_ATTENTION_BACKEND",
        help="Attention kernels, by SGLang's names; some of vLLM's are translated.",
    )
    sampling_backend: str | None = ENGINE.engine_option(
        "SAMPLING_BACKEND", help="Sampling kernels."
    )
    cache_scope: Literal["all", "key", "session"] = ENGINE.setting(
        "all",
        "CACHE_SCOPE",
        help="Whose prompts share the prefix cache: `all`; those of one API `key`; those of one "
        "key and `prompt_cache_key` (`session`). From the time of an answer a client can tell what "
        "is in its part of the cache. `cache_salt` of a request separates, too.",
    )
    disable_radix_cache: bool = ENGINE.engine_option(
        "DISABLE_RADIX_CACHE", default=False, help="No reuse of the KV cache between requests."
    )
    disable_cuda_graph: bool = ENGINE.engine_option(
        "DISABLE_CUDA_GRAPH", "ENFORCE_EAGER", default=False, help="No CUDA graphs."
    )
    disable_custom_all_reduce: bool = ENGINE.engine_option(
        "DISABLE_CUSTOM_ALL_REDUCE",
        default=False,
        help="NCCL instead of SGLang's own all-reduce kernel.",
    )
    cpu_offload_gb: int | None = ENGINE.engine_option(
        "CPU_OFFLOAD_GB", ge=0, help="GiB of weights kept in the machine's memory."
    )
    enable_memory_saver: bool = ENGINE.engine_option(
        "ENABLE_MEMORY_SAVER",
        default=False,
        help="Enable `/sleep` and `/wake_up` (with ADMIN_API_KEY): the engine releases its GPU "
        "memory, and takes it again. The weights are kept in the machine's memory meanwhile.",
    )
    speculative_algorithm: str | None = ENGINE.engine_option(
        "SPECULATIVE_ALGORITHM",
        help="Speculative decoding: `EAGLE`, `EAGLE3`, `STANDALONE`, `NGRAM`, ... Default: none, "
        "or `STANDALONE` with a draft model.",
    )
    speculative_model: str | None = ENGINE.engine_option(
        "SPECULATIVE_DRAFT_MODEL_PATH",
        "SPECULATIVE_MODEL",
        sglang="speculative_draft_model_path",
        help="Draft model for speculative decoding; `[ngram]`: none, take SPECULATIVE_ALGORITHM="
        "NGRAM.",
    )
    speculative_num_steps: int | None = ENGINE.engine_option(
        "SPECULATIVE_NUM_STEPS", ge=1, help="Steps of the draft model."
    )
    speculative_eagle_topk: int | None = ENGINE.engine_option(
        "SPECULATIVE_EAGLE_TOPK", ge=1, help="Branches of the draft in each step."
    )
    num_speculative_tokens: int | None = ENGINE.engine_option(
        "SPECULATIVE_NUM_DRAFT_TOKENS",
        "NUM_SPECULATIVE_TOKENS",
        sglang="speculative_num_draft_tokens",
        ge=1,
        help="Tokens of one draft.",
    )
    disable_outlines_disk_cache: bool = ENGINE.engine_option(
        "DISABLE_OUTLINES_DISK_CACHE",
        default=False,
        help="No disk cache of the outlines grammar backend.",
    )
    enable_torch_compile: bool = ENGINE.engine_option(
        "ENABLE_TORCH_COMPILE", default=False, help="Compile the model with torch.compile."
    )
    enable_p2p_check: bool = ENGINE.engine_option(
        "ENABLE_P2P_CHECK", default=False, help="Check peer-to-peer access between GPUs."
    )
    enable_flashinfer_mla: bool = ENGINE.setting(
        False, "ENABLE_FLASHINFER_MLA", help="Obsolete: taken as ATTENTION_BACKEND=flashinfer."
    )
    triton_attention_reduce_in_fp32: bool = ENGINE.engine_option(
        "TRITON_ATTENTION_REDUCE_IN_FP32",
        default=False,
        help="Accumulate Triton attention in fp32.",
    )
    skip_tokenizer_init: bool = ENGINE.setting(
        False, "SKIP_TOKENIZER_INIT", help="Refused if true: this server tokenises every prompt."
    )
    show_time_cost: bool = ENGINE.engine_option(
        "SHOW_TIME_COST", default=False, help="SGLang prints the time of its custom marks."
    )
    engine_args: Options = ENGINE.setting(
        {},
        "ENGINE_ARGS",
        help="Any other option of SGLang, as a JSON object; on the command line also "
        "`--engine-arg name=value`, repeated. Wins over the settings above.",
    )

    # -- the server -------------------------------------------------------------------------------
    host: str = SERVER.setting("0.0.0.0", "HOST", help="Address to listen on.")
    port: int = SERVER.setting(
        8000, "PORT", ge=0, le=65535, help="Port to listen on; 0 takes a free one."
    )
    api_key: Secrets = SERVER.setting(
        (),
        "API_KEY",
        "VLLM_API_KEY",
        help="One or several keys, separated by commas. None: the API is open, and a warning says "
        "so unless HOST is loopback.",
    )
    admin_api_key: Secrets = SERVER.setting(
        (),
        "ADMIN_API_KEY",
        help="One or several keys that also open the operator's routes (/flush_cache, "
        "/abort_request, /sleep, /wake_up, /start_profile, /stop_profile, "
        "/v1/load_lora_adapter, /v1/unload_lora_adapter). None: there are no such routes.",
    )
    reasoning_keys: Secrets = SERVER.setting(
        (),
        "REASONING_KEYS",
        help="One or several secrets, separated by commas, that seal the thinking which clients "
        "keep (`encrypted_content`): the first seals, all open. The same for all servers behind a "
        "router. Default: API_KEY; without it one that ends with the process.",
    )
    cors_origins: Names = SERVER.setting(
        (),
        "CORS_ORIGINS",
        "ALLOWED_ORIGINS",
        help="Origins that browsers may call from, separated by commas; `*` for all. None: CORS is "
        "off.",
    )
    ui: bool = SERVER.setting(
        True,
        "UI",
        help="A page for browsers at `/`: the server's state, and a chat. `false`: they get the "
        "JSON that other clients get.",
    )
    forwarded_allow_ips: str = SERVER.setting(
        "127.0.0.1",
        "FORWARDED_ALLOW_IPS",
        help="Proxies whose X-Forwarded-For is believed, separated by commas; `*` for all.",
    )
    tokenizer_workers: int = SERVER.engine_option(
        "TOKENIZER_WORKERS",
        "TOKENIZER_WORKER_NUM",
        default=1,
        sglang="tokenizer_worker_num",
        ge=1,
        le=64,
        help="Serving processes that share the port and one engine; docs/scaling.md.",
    )
    sleeping_requests: Literal["refuse", "wait"] = SERVER.setting(
        "refuse",
        "SLEEPING_REQUESTS",
        help="What a request gets while the engine sleeps: 503, or its turn after `/wake_up`.",
    )
    detokenizer_process: bool = SERVER.setting(
        False,
        "DETOKENIZER_PROCESS",
        help="Have SGLang's own process make text of the model's tokens, as it always does with "
        "TOKENIZER_WORKERS above 1. Without it the serving process does: less memory, less time.",
    )
    port_health: int | None = SERVER.setting(
        None,
        "PORT_HEALTH",
        ge=1,
        le=65535,
        help="A second port, on which only the health routes answer: RunPod's load balancer asks "
        "there. Default: PORT.",
    )
    uds: str | None = SERVER.setting(
        None,
        "UDS",
        help="Path of a unix socket to listen on, instead of HOST and PORT. docs/tls.md.",
    )
    uds_mode: str = SERVER.setting(
        "660", "UDS_MODE", help="Mode of that socket: who may write to it may use the API."
    )
    ssl_certfile: str | None = SERVER.setting(
        None,
        "SSL_CERTFILE",
        help="PEM file with the server's certificate and those between it and its authority: PORT "
        "speaks TLS (https), PORT_HEALTH does not. Read again when it changes. docs/tls.md.",
    )
    ssl_keyfile: str | None = SERVER.setting(
        None, "SSL_KEYFILE", help="PEM file with its key. Default: SSL_CERTFILE."
    )
    ssl_keyfile_password: SecretStr | None = SERVER.setting(
        None, "SSL_KEYFILE_PASSWORD", help="Password of an encrypted SSL_KEYFILE."
    )
    ssl_ca_certs: str | None = SERVER.setting(
        None,
        "SSL_CA_CERTS",
        help="PEM file with authorities, of one of which each client needs a certificate. "
        "None: clients need none.",
    )
    health_check_path: str | None = SERVER.setting(
        None,
        "HEALTH_CHECK_PATH",
        help="A further path that answers as `/ping` does: RunPod's load balancer asks there.",
    )
    start_timeout_s: float = SERVER.setting(
        0.0,
        "START_TIMEOUT",
        "VLLM_STARTUP_TIMEOUT",
        ge=0,
        help="Seconds until the model must be ready; past it the server ends with exit code 71. "
        "0: for ever.",
    )
    drain_timeout_s: float = SERVER.setting(
        30.0, "DRAIN_TIMEOUT", ge=0, help="Seconds that requests may take to finish after SIGTERM."
    )
    notify_socket: str | None = SERVER.setting(
        None,
        "NOTIFY_SOCKET",
        has_flag=False,
        help="Set by systemd (`Type=notify`), which is told when the server is ready, and what it "
        "does until then. docs/systemd.md.",
    )
    watchdog_usec: int | None = SERVER.setting(
        None, "WATCHDOG_USEC", has_flag=False, ge=1000, help="The same (`WatchdogSec=`)."
    )
    engine_stall_timeout_s: float = SERVER.setting(
        60.0,
        "ENGINE_STALL_TIMEOUT",
        ge=0,
        help="Seconds that an engine with requests may neither send anything nor show that it "
        "works on them; past it they fail and the server ends with exit code 73. 0: for ever.",
    )
    heartbeat_s: float = SERVER.setting(
        15.0,
        "HEARTBEAT_INTERVAL",
        gt=0,
        help="Seconds of silence after which a stream is sent a comment, or its dialect's ping.",
    )

    stream_usage: bool = SERVER.setting(
        False,
        "STREAM_USAGE",
        "ENABLE_FORCE_INCLUDE_USAGE",
        help="Chats and completions that are streamed end with their usage, too, if the client has "
        "not asked for it (`stream_options.include_usage`).",
    )

    # -- bounds -----------------------------------------------------------------------------------
    max_concurrency: int = BOUNDS.setting(
        512,
        "MAX_CONCURRENCY",
        ge=1,
        help="Sequences in the engine at a time, one for each prompt and choice of a request; each "
        "of several TOKENIZER_WORKERS has its share.",
    )
    max_queue: int = BOUNDS.setting(
        1024,
        "MAX_QUEUE",
        "MAX_QUEUED_REQUESTS",
        ge=0,
        help="Requests that wait to enter the engine; each of several TOKENIZER_WORKERS has its "
        "share. Past it 503 with Retry-After.",
    )
    max_total_tokens: int | None = BOUNDS.setting(
        None,
        "MAX_TOTAL_TOKENS",
        ge=1,
        help="Tokens of one request, prompt and answer together. Not the size of the KV cache: "
        "that is KV_POOL_TOKENS (SGLang and worker-sglang mean the latter by this name). "
        "Default: the model's context.",
    )
    max_header_bytes: int = BOUNDS.setting(
        16 * 1024,
        "MAX_HEADER_BYTES",
        ge=512,
        help="Size of a request's line and headers together; past it 431.",
    )
    max_headers: int = BOUNDS.setting(
        100,
        "MAX_HEADERS",
        "H11_MAX_HEADER_COUNT",
        ge=10,
        help="Header fields of a request; past it 431.",
    )
    header_timeout_s: float = BOUNDS.setting(
        10.0,
        "HEADER_TIMEOUT",
        gt=0,
        help="Seconds from the first byte of a request to the end of its headers; past it 408. "
        "A connection on which nothing is ever sent ends after as many.",
    )
    max_body_bytes: int | None = BOUNDS.setting(
        None,
        "MAX_BODY_BYTES",
        ge=1024,
        help="Size of a request's body; past it 413. Default: 4 MiB; 24 MiB where the model takes "
        "pictures.",
    )
    max_sequences_per_request: int | None = BOUNDS.setting(
        None,
        "MAX_SEQUENCES_PER_REQUEST",
        ge=1,
        help="Sequences of one request, prompts times `n`, in the engine at a time; the others "
        "wait. Default: a quarter of MAX_CONCURRENCY and of what the engine runs at a time; at "
        "most 2 on a CPU.",
    )
    max_arriving_bodies: int = BOUNDS.setting(
        4096,
        "MAX_ARRIVING_BODIES",
        ge=1,
        help="Bodies that a serving process receives at a time. Past it the one that has been "
        "arriving longest gets 503.",
    )
    max_arriving_bytes: int = BOUNDS.setting(
        256 * 1024 * 1024,
        "MAX_ARRIVING_BYTES",
        ge=1024,
        help="Bytes of all bodies that a serving process is receiving. Past it the largest gets "
        "503. One body always fits.",
    )
    max_request_bytes: int = BOUNDS.setting(
        512 * 1024 * 1024,
        "MAX_REQUEST_BYTES",
        ge=1024,
        help="Bytes of the bodies of all requests in a serving process: their prompts take up to "
        "nine times as much memory. Past it new ones get 503. One request always fits.",
    )
    body_timeout_s: float = BOUNDS.setting(
        30.0,
        "BODY_TIMEOUT",
        gt=0,
        help="Seconds that a client may take to send its body; past it 408.",
    )
    min_body_rate: int = BOUNDS.setting(
        1024,
        "MIN_BODY_RATE",
        ge=0,
        help="Bytes a second that a body must arrive with, after five seconds; below it 408. "
        "0: any rate will do.",
    )
    request_timeout_s: float = BOUNDS.setting(
        0.0,
        "REQUEST_TIMEOUT",
        ge=0,
        help="Seconds that a request may take, from its complete body to the end of its answer; "
        "past it 504, which clients do not try again. 0: for ever.",
    )
    write_timeout_s: float = BOUNDS.setting(
        60.0,
        "WRITE_TIMEOUT",
        gt=0,
        help="Seconds that a client may leave an answer unread before it is cut off.",
    )
    max_choices: int = BOUNDS.setting(
        8, "MAX_CHOICES", ge=1, le=128, bounds=("n", "best_of"), help="Largest `n` of a request."
    )
    # SGLang takes no more than 32 stop strings.
    max_stops: int = BOUNDS.setting(
        16,
        "MAX_STOPS",
        ge=0,
        le=32,
        bounds=("stop",),
        help="Stop strings of a request (OpenAI takes 4).",
    )
    max_stop_chars: int = BOUNDS.setting(
        256, "MAX_STOP_CHARS", ge=1, le=4096, help="Characters of one stop string."
    )
    max_stop_token_ids: int = BOUNDS.setting(
        64,
        "MAX_STOP_TOKEN_IDS",
        ge=0,
        le=1024,
        bounds=("stop_token_ids",),
        help="Stop token ids of a request.",
    )
    max_logit_biases: int = BOUNDS.setting(
        300,
        "MAX_LOGIT_BIASES",
        ge=0,
        le=4096,
        bounds=("logit_bias",),
        help="Tokens of `logit_bias`.",
    )
    max_prompts: int = BOUNDS.setting(
        64, "MAX_PROMPTS", ge=1, le=4096, help="Prompts in one completion request."
    )
    max_inputs: int = BOUNDS.setting(
        2048, "MAX_INPUTS", ge=1, help="Texts in one request for embeddings."
    )
    max_messages: int = BOUNDS.setting(
        8192, "MAX_MESSAGES", ge=1, bounds=("messages",), help="Messages in one conversation."
    )
    max_prompt_chars: int | None = BOUNDS.setting(
        None,
        "MAX_PROMPT_CHARS",
        ge=1,
        help="Characters of one prompt, checked before it is tokenised. Default: eight for each "
        "token of the context, at most 2,000,000.",
    )
    max_prompt_scores: int = BOUNDS.setting(
        1_000_000,
        "MAX_PROMPT_SCORES",
        ge=1,
        help="Log-probabilities of prompts in one request: tokens of its prompts, times "
        "alternatives and one, times `n`.",
    )
    max_answer_scores: int = BOUNDS.setting(
        1_000_000,
        "MAX_ANSWER_SCORES",
        ge=1,
        help="Log-probabilities of one answer: tokens, times alternatives and one, times `n`. A "
        "`max_tokens` that allows more is 400; without one the answer ends there, as `length`.",
    )
    max_logprobs: int = BOUNDS.setting(
        20,
        "MAX_LOGPROBS",
        ge=0,
        le=20,
        bounds=("top_logprobs", "top_logprobs_num"),
        help="Largest `top_logprobs` of a request.",
    )
    max_tools: int = BOUNDS.setting(
        512, "MAX_TOOLS", ge=1, bounds=("tools",), help="Tools in one request."
    )
    max_schema_bytes: int = BOUNDS.setting(
        64 * 1024,
        "MAX_SCHEMA_BYTES",
        ge=256,
        help="Size of one JSON schema (of a tool's arguments or a response format) or grammar.",
    )
    max_schema_depth: int = BOUNDS.setting(
        32,
        "MAX_SCHEMA_DEPTH",
        ge=4,
        help="Objects and arrays inside each other in one JSON schema.",
    )
    max_schema_nodes: int = BOUNDS.setting(
        1000, "MAX_SCHEMA_NODES", ge=16, help="Objects, arrays and values in one JSON schema."
    )
    max_schema_enum: int = BOUNDS.setting(
        500, "MAX_SCHEMA_ENUM", ge=1, help="Values of one enum in a JSON schema."
    )
    max_regex_chars: int = BOUNDS.setting(
        1024, "MAX_REGEX_CHARS", ge=1, help="Characters of one regular expression."
    )
    max_regex_repeat: int = BOUNDS.setting(
        1000, "MAX_REGEX_REPEAT", ge=1, help="Largest number in a `{n,m}` of a regular expression."
    )
    grammar_timeout_s: float = BOUNDS.setting(
        0.5,
        "GRAMMAR_TIMEOUT",
        gt=0,
        help="Seconds of processor time that a new schema or grammar may take to compile; past it "
        "400.",
    )
    allow_grammars: bool = BOUNDS.setting(
        False,
        "ALLOW_GRAMMARS",
        help="Take `regex`, `ebnf`, `structural_tag` and vLLM's `guided_*` from clients.",
    )
    template_kwargs: Names = BOUNDS.setting(
        ("enable_thinking", "thinking"),
        "ALLOWED_TEMPLATE_KWARGS",
        help="`chat_template_kwargs` that clients may set; their values are booleans or short "
        "words.",
    )
    max_json_depth: int = BOUNDS.setting(
        64,
        "MAX_JSON_DEPTH",
        ge=8,
        le=250,
        help="Objects and arrays inside each other in a request's JSON.",
    )
    max_json_nodes: int = BOUNDS.setting(
        100_000,
        "MAX_JSON_NODES",
        ge=100,
        help="Objects, arrays, strings (keys too) and literals in a request's JSON; of numbers, "
        "such as token ids, ten count as one.",
    )
    max_stream_interval: int = BOUNDS.setting(
        4,
        "MAX_STREAM_INTERVAL",
        ge=1,
        le=64,
        help="Steps of the engine whose tokens may share one frame while the event loop lags, so "
        "that overload makes streams coarser before it makes them slower; 1: never.",
    )

    # -- pictures ---------------------------------------------------------------------------------
    images: bool = PICTURES.setting(
        True,
        "IMAGES",
        help="Take pictures, if the model does. `false`: it is served for text alone.",
    )
    media_untested: bool = PICTURES.setting(
        False,
        "MEDIA_UNTESTED",
        help="Take pictures for families of models, too, with which this server was not tested; "
        "without it they are served for text.",
    )
    media_max_images: Images = PICTURES.setting(
        16,
        "MEDIA_MAX_IMAGES",
        "LIMIT_MM_PER_PROMPT",
        ge=1,
        le=1024,
        help="Pictures in one request.",
    )
    media_max_bytes: int = PICTURES.setting(
        10 * 1024 * 1024, "MEDIA_MAX_BYTES", ge=1024, help="Size of one picture's file."
    )
    media_max_pixels: int = PICTURES.setting(
        16_777_216, "MEDIA_MAX_PIXELS", ge=1024, le=2**28, help="Pixels of one picture."
    )
    media_min_side: int = PICTURES.setting(
        4, "MEDIA_MIN_SIDE", ge=1, help="Pixels of a picture's shorter side, at least."
    )
    media_max_ratio: float = PICTURES.setting(
        50.0,
        "MEDIA_MAX_RATIO",
        ge=1,
        help="The longer side of a picture divided by the shorter one.",
    )
    media_max_pixels_in_flight: int = PICTURES.setting(
        128 * 1024 * 1024,
        "MEDIA_MAX_PIXELS_IN_FLIGHT",
        ge=1024,
        help="Pixels of all pictures that a serving process prepares at a time; others wait. One "
        "request always fits.",
    )
    media_processes: int = PICTURES.setting(
        2, "MEDIA_PROCESSES", ge=1, le=64, help="Processes that decode pictures."
    )
    media_prepare_timeout_s: float = PICTURES.setting(
        10.0,
        "MEDIA_PREPARE_TIMEOUT",
        gt=0,
        help="Seconds that the model's own processor may take for the pictures of a request.",
    )
    media_hosts: Names = PICTURES.setting(
        (),
        "MEDIA_HOSTS",
        "ALLOWED_MEDIA_DOMAINS",
        help="Hosts from which pictures are fetched: names, `.example.com` for all below it, `*` "
        "for every public one. One that is named may be in a private network, and with "
        "`name:port` at another port. Default: none; clients send pictures as `data:` URLs.",
    )
    media_http: bool = PICTURES.setting(
        False, "MEDIA_HTTP", help="Fetch pictures over `http:`, too, and not only `https:`."
    )
    media_fetch_timeout_s: float = PICTURES.setting(
        5.0, "MEDIA_FETCH_TIMEOUT", gt=0, help="Seconds for one picture to be fetched."
    )

    # -- adapters ---------------------------------------------------------------------------------
    enable_lora: bool = ADAPTERS.setting(
        False,
        "ENABLE_LORA",
        help="Serve LoRA adapters, each as a model of its name. On if one of the next three is "
        "set; alone it lets the operator load some (`POST /v1/load_lora_adapter`).",
    )
    lora_modules: PathsByName = ADAPTERS.setting(
        {},
        "LORA_MODULES",
        help='Adapters that are loaded at the start: `[{"name": "sql", "path": "/adapters/sql"}]`, '
        "or `sql=/adapters/sql`. A path is a folder as PEFT writes it, or a name on the hub.",
    )
    lora_paths: PathsByName = ADAPTERS.setting(
        {}, "LORA_PATHS", help="More of them, in the forms of SGLang: `sql=/adapters/sql`."
    )
    lora_folder: str | None = ADAPTERS.setting(
        None,
        "LORA_FOLDER",
        help="A folder whose subfolders are adapters: each is loaded when it is first asked for by "
        "the subfolder's name.",
    )
    max_loras: int = ADAPTERS.setting(
        4,
        "MAX_LORAS",
        ge=1,
        le=512,
        help="Adapters that run at the same time; each has its place in the GPU's memory. Requests "
        "for others wait.",
    )
    max_lora_rank: int | None = ADAPTERS.setting(
        None,
        "MAX_LORA_RANK",
        ge=1,
        le=4096,
        help="The largest rank. Default: that of the adapters that are loaded at the start, at "
        "least 16.",
    )
    max_cpu_loras: int | None = ADAPTERS.setting(
        None,
        "MAX_CPU_LORAS",
        ge=1,
        help="Adapters that are loaded, and kept in the memory of each GPU's process. Of those of "
        "LORA_FOLDER the one that was used least recently makes room. Default: 32, and at least "
        "MAX_LORAS and those of the start.",
    )
    adapter_timeout_s: float = ADAPTERS.setting(
        30.0,
        "LORA_TIMEOUT",
        gt=0,
        help="Seconds that a request waits for room for its adapter, where all that are loaded are "
        "in use.",
    )
    lora_target_modules: Names = ADAPTERS.setting(
        (),
        "LORA_TARGET_MODULES",
        help="Modules that adapters may change, such as `q_proj,v_proj`; fewer need less memory. "
        "Default: all linear layers.",
    )

    # -- stored responses -------------------------------------------------------------------------
    store_url: str | None = STORE.setting(
        None,
        "STORE_URL",
        help="Where responses and conversations are kept: `sqlite:///PATH`; "
        "`postgresql://USER:PASSWORD@HOST/NAME`, which several servers can share; `memory`; `off`. "
        "Default: an SQLite file in STATE_DIR.",
    )
    state_dir: str = STORE.setting(
        "~/.local/state/serve-hathora",
        "STATE_DIR",
        help="Where the server keeps what outlives it. If it cannot be written: TMPDIR, where it "
        "ends with the server.",
    )
    store_max_responses: int = STORE.setting(
        100_000,
        "STORE_MAX_RESPONSES",
        ge=1,
        help="Responses and conversations that are kept. Past it the oldest of "
        "the API key with the most are removed.",
    )
    store_max_bytes: int = STORE.setting(
        2**30, "STORE_MAX_BYTES", ge=2**20, help="Bytes of all of them; past it likewise."
    )
    store_max_response_bytes: int = STORE.setting(
        16 * 2**20,
        "STORE_MAX_RESPONSE_BYTES",
        ge=1024,
        help="Bytes of one response and its input; a larger one is answered and not kept.",
    )
    store_ttl_s: float = STORE.setting(
        7 * 86_400.0,
        "STORE_TTL",
        gt=0,
        help="Seconds after its last use that a response or a conversation is kept.",
    )
    max_background: int = STORE.setting(
        64,
        "MAX_BACKGROUND",
        ge=0,
        help="Responses that a serving process generates in the background at a time; past it "
        "503. They count against MAX_CONCURRENCY, too.",
    )

    # -- files ------------------------------------------------------------------------------------
    file_storage_path: str | None = FILES.setting(
        None,
        "FILE_STORAGE_PATH",
        help="Where files that clients upload are kept: a folder, or a bucket as `s3://BUCKET/"
        "PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`, whose credentials are in the "
        "variables of its vendor. Default: nowhere; `/v1/files` is 404.",
    )
    file_max_bytes: int = FILES.setting(
        512 * 2**20, "FILE_MAX_BYTES", ge=1, le=32 * 2**30, help="Size of one file; past it 413."
    )
    file_max_count: int = FILES.setting(
        10_000,
        "FILE_MAX_COUNT",
        ge=1,
        le=1_000_000,
        help="Files of one API key; past it 400, until some are deleted.",
    )
    file_max_key_bytes: int = FILES.setting(
        16 * 2**30,
        "FILE_MAX_KEY_BYTES",
        ge=1,
        help="Bytes of all files of one API key; past it 400.",
    )
    file_max_total_bytes: int = FILES.setting(
        64 * 2**30, "FILE_MAX_TOTAL_BYTES", ge=1, help="Bytes of all files; past it 400."
    )
    file_ttl_s: float | None = FILES.setting(
        None,
        "FILE_TTL",
        gt=0,
        help="Seconds after its upload that a file is kept; a client may ask for less. Default: "
        "until it is deleted.",
    )
    file_upload_timeout_s: float = FILES.setting(
        3600.0,
        "FILE_UPLOAD_TIMEOUT",
        gt=0,
        help="Seconds that an upload may take; past it 408. MIN_BODY_RATE holds for it, too; "
        "BODY_TIMEOUT and MAX_BODY_BYTES do not.",
    )
    file_max_uploads: int = FILES.setting(
        32,
        "FILE_MAX_UPLOADS",
        ge=1,
        le=1024,
        help="Uploads that a serving process receives at a time; past it 503. One takes up to "
        "8 MiB of memory, and 40 MiB on its way to a bucket.",
    )

    # -- logs and metrics -------------------------------------------------------------------------
    log_level: LogLevel = LOGS.setting(
        "info",
        "LOG_LEVEL",
        help="`debug` shows the content of prompts and answers; nothing above it does.",
    )
    log_level_http: LogLevel | None = LOGS.setting(
        None,
        "LOG_LEVEL_HTTP",
        "UVICORN_LOG_LEVEL",
        help="Level of the HTTP server's own messages. Default: LOG_LEVEL.",
    )
    log_format: Literal["auto", "console", "json", "text"] = LOGS.setting(
        "auto",
        "LOG_FORMAT",
        help="Of stdout; LOG_FILE is always JSON. `auto`: console on a terminal, else JSON. "
        "`text`: the lines of the Hathora document.",
    )
    log_file: str = LOGS.setting(
        "serve_hathora.log",
        "LOG_FILE",
        empty_is_a_value=True,
        help="Also log to this file, rotated at 10 MB, five kept; only the server's user can read "
        "it. Empty: no file.",
    )
    max_log_len: int | None = LOGS.setting(
        None,
        "MAX_LOG_LEN",
        ge=0,
        help="Bytes of a request's body, and characters of an answer, in the log, at "
        "LOG_LEVEL=debug. Default: all of a body, 16384 of an answer.",
    )
    log_requests: bool = LOGS.setting(
        False,
        "LOG_REQUESTS",
        help="SGLang logs each request as well; with LOG_LEVEL=debug its content too.",
    )
    enable_metrics: bool = LOGS.setting(
        True, "ENABLE_METRICS", help="Serve /metrics, SGLang's own series included."
    )
    server_timing: bool = LOGS.setting(
        False,
        "SERVER_TIMING",
        help="Answers carry Server-Timing: what the time until they began was for. It also tells "
        "clients how busy the server is.",
    )
    otel_exporter_otlp_endpoint: str | None = LOGS.setting(
        None,
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        help="Collector of OpenTelemetry, such as http://collector:4318: each request that "
        "generates has a span. None: there are no traces. docs/tracing.md.",
    )
    otel_exporter_otlp_traces_endpoint: str | None = LOGS.setting(
        None,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        help="The same, for traces alone and with its path. Default: OTEL_EXPORTER_OTLP_ENDPOINT "
        "and /v1/traces.",
    )
    otel_exporter_otlp_headers: SecretStr | None = LOGS.setting(
        None,
        "OTEL_EXPORTER_OTLP_HEADERS",
        help="Headers for the collector, such as a key: `name=value,name=value`.",
    )
    otel_exporter_otlp_traces_headers: SecretStr | None = LOGS.setting(
        None, "OTEL_EXPORTER_OTLP_TRACES_HEADERS", help="The same, for traces alone."
    )
    otel_exporter_otlp_protocol: str | None = LOGS.setting(
        None,
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        help="Only `http/protobuf`, the default, is spoken. OpenTelemetry's other variables "
        "(OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, ...) are its own.",
    )
    otel_exporter_otlp_traces_protocol: str | None = LOGS.setting(
        None, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", help="The same, for traces alone."
    )
    otel_traces_exporter: str | None = LOGS.setting(
        None,
        "OTEL_TRACES_EXPORTER",
        help="`none`: there are no traces, though a collector is set.",
    )
    otel_sdk_disabled: bool = LOGS.setting(
        False,
        "OTEL_SDK_DISABLED",
        help="There are no traces, though a collector is set.",
    )

    # -- warm-up ----------------------------------------------------------------------------------
    warmup_on_start: bool = WARM_UP.setting(
        False,
        "WARMUP_ON_START",
        help="Answer WARMUP_PROMPT before the server is ready; with SGLANG_BASE_URL, ask that "
        'server. One token is generated before "ready" in any case.',
    )
    warmup_model: str | None = WARM_UP.setting(
        None, "WARMUP_MODEL", help="Model to ask with SGLANG_BASE_URL. Default: SGLANG_MODEL."
    )
    warmup_prompt: str = WARM_UP.setting("ping", "WARMUP_PROMPT", help="The prompt.")
    warmup_max_tokens: int = WARM_UP.setting(
        1, "WARMUP_MAX_TOKENS", ge=1, help="Tokens of the answer."
    )

    # -- Hathora and Google Cloud -----------------------------------------------------------------
    hathora_networking: bool = HATHORA.setting(
        True, "HATHORA_NETWORKING", help="False: register nowhere, even if the four below are set."
    )
    hathora_hostname: str | None = HATHORA.setting(
        None,
        "HATHORA_HOSTNAME",
        help="Name that this server is reached by; its address finds the virtual machine.",
    )
    hathora_default_port: int | None = HATHORA.setting(
        None,
        "HATHORA_DEFAULT_PORT",
        ge=1,
        le=65535,
        help="Port of the endpoint that is registered; also the default of PORT.",
    )
    hathora_region: str = HATHORA.setting(
        "unknown", "HATHORA_REGION", help="Region, shown in headers and /health."
    )
    gcp_key: SecretStr | None = HATHORA.setting(
        None,
        "GCP_SERVICE_ACCOUNT_KEY_BASE64",
        has_flag=False,
        help="Service account key (JSON), base64. The server writes it to no file and does not "
        "accept it on the command line. The serving process neither has it in its environment nor "
        "takes it from a file, but runs as the same user. With HATHORA_HOSTNAME, "
        "HATHORA_DEFAULT_PORT and HATHORA_REGION it switches networking on: all four or none.",
    )
    gcp_project: str | None = HATHORA.setting(
        None, "GCP_PROJECT", help="Project of the group. Default: the key's."
    )
    gcp_neg_name: str = HATHORA.setting(
        "llm-serve-{zone}",
        "GCP_NEG_NAME",
        help="Network endpoint group; `{zone}` and `{region}` are filled in.",
    )
    gcp_neg_scope: Literal["zonal", "regional", "global"] = HATHORA.setting(
        "zonal",
        "GCP_NEG_SCOPE",
        help="Of the group. `zonal`: of virtual machines in the project; `regional` and `global`: "
        "internet endpoints (name or address), for a server that runs elsewhere.",
    )
    gcp_region: str | None = HATHORA.setting(
        None, "GCP_REGION", help="Google Cloud region of a `regional` group."
    )
    gcp_neg_required: bool = HATHORA.setting(
        False,
        "GCP_NEG_REQUIRED",
        help="True: a registration that fails ends the server (exit 72). False: it goes on "
        "serving, reports the failure in /health, and tries again in the background.",
    )
    gcp_timeout_s: float = HATHORA.setting(
        60.0,
        "GCP_TIMEOUT",
        gt=0,
        help="Seconds for one registration, all calls and retries together; as many again for "
        "removing it.",
    )
    gcp_api_endpoint: str | None = HATHORA.setting(
        None,
        "GCP_API_ENDPOINT",
        help="Address of the Compute API, if it is not Google's public one.",
    )
    public_ip: str | None = HATHORA.setting(
        None,
        "PUBLIC_IP",
        help="This server's public IPv4 address. Default: what HATHORA_HOSTNAME resolves to.",
    )

    # -- RunPod serverless ------------------------------------------------------------------------
    upstream_url: str | None = RUNPOD.setting(
        None,
        "SGLANG_BASE_URL",
        help="Forward every job to this OpenAI-compatible server; no engine is started. `/v1` at "
        "its end may be left out.",
    )
    upstream_api_key: SecretStr | None = RUNPOD.setting(
        None, "SGLANG_API_KEY", help="Bearer token for that server."
    )
    upstream_model: str | None = RUNPOD.setting(
        None, "SGLANG_MODEL", help="Model for jobs that name none. Default: `default`."
    )
    upstream_timeout_s: float = RUNPOD.setting(
        300.0,
        "SGLANG_TIMEOUT",
        gt=0,
        help="Seconds that server may stay silent: before its answer, and between two pieces.",
    )
    job_output: Literal["auto", "classic", "openai", "vllm"] = RUNPOD.setting(
        "auto",
        "JOB_OUTPUT",
        help="Output of jobs with `messages` or `prompt`. `auto`: OpenAI's JSON, as of worker-vllm "
        "since 2026-07; `classic`: as of worker-vllm before, `choices[].tokens` for `prompt` and "
        "for jobs with `sampling_params`. `openai` and `vllm`: the one or the other for all.",
    )
    raw_openai_output: bool = RUNPOD.setting(
        True,
        "RAW_OPENAI_OUTPUT",
        help="Streams of jobs are yielded as server-sent events (text); false: as lists of "
        "chunks (JSON).",
    )
    max_batch_size: int = RUNPOD.setting(
        50,
        "DEFAULT_BATCH_SIZE",
        "MAX_BATCH_SIZE",
        ge=1,
        help="Pieces of a stream in one yield, at most; a job's `max_batch_size` overrides it.",
    )
    min_batch_size: int = RUNPOD.setting(
        1,
        "DEFAULT_MIN_BATCH_SIZE",
        "MIN_BATCH_SIZE",
        ge=1,
        help="Pieces in the first yield of a stream; a job's `min_batch_size` overrides it.",
    )
    batch_size_growth_factor: float = RUNPOD.setting(
        3.0,
        "DEFAULT_BATCH_SIZE_GROWTH_FACTOR",
        "BATCH_SIZE_GROWTH_FACTOR",
        ge=1,
        help="Each yield has so many times the pieces of the one before; a job's "
        "`batch_size_growth_factor` overrides it.",
    )
    refresh_worker: bool = RUNPOD.setting(
        False, "REFRESH_WORKER", help="End the worker after each job, for a fresh one."
    )

    # -- where settings are read from -------------------------------------------------------------
    settings_file: str | None = SOURCES.setting(
        None,
        "SETTINGS_FILE",
        help="YAML file (TOML, if its name ends so) of settings by their names: `--config FILE`. "
        "Everything else but VLLM_CONFIG_FILE wins over it; an unknown name stops the start.",
    )
    env_file: str = SOURCES.setting(
        ".env",
        "ENV_FILE",
        empty_is_a_value=True,
        help="File of `NAME=value` lines, of which only settings are taken; the start says which, "
        "and which names are nearly one (`api_key`); a broken line stops the start. So does the "
        "one in the working folder if it cannot be read, is a link (as Kubernetes mounts it), "
        "belongs to another user, or a group of several users can write it: its keys would be "
        "missing. `ENV_FILE=.env` trusts it as it is. Empty: none is read.",
    )
    secrets_dir: str = SOURCES.setting(
        "/run/secrets",
        "SECRETS_DIR",
        empty_is_a_value=True,
        help="Folder with a file for each secret, as Docker and Kubernetes have it: `api_key`, "
        "`hf_token` and so on, in lower or upper case. For one of them `API_KEY_FILE=PATH` does. "
        "Empty: none is read.",
    )

    # -- names of other servers -------------------------------------------------------------------
    gpu_memory_utilization: float | None = OTHERS.setting(
        None,
        "GPU_MEMORY_UTILIZATION",
        gt=0,
        le=1,
        help="vLLM's; becomes MEM_FRACTION_STATIC, 0.05 less, because SGLang's leaves out the "
        "activations.",
    )
    enable_prefix_caching: bool | None = OTHERS.setting(
        None, "ENABLE_PREFIX_CACHING", help="vLLM's; false becomes DISABLE_RADIX_CACHE=true."
    )
    num_gpu_blocks_override: int | None = OTHERS.setting(
        None,
        "NUM_GPU_BLOCKS_OVERRIDE",
        ge=1,
        help="vLLM's; times BLOCK_SIZE (16) it becomes KV_POOL_TOKENS.",
    )
    block_size: int | None = OTHERS.setting(
        None, "BLOCK_SIZE", ge=1, help="vLLM's; used with NUM_GPU_BLOCKS_OVERRIDE only."
    )
    guided_decoding_backend: str | None = OTHERS.setting(
        None, "GUIDED_DECODING_BACKEND", help="vLLM's; no effect: grammars are always llguidance's."
    )
    openai_response_role: str | None = OTHERS.setting(
        None,
        "OPENAI_RESPONSE_ROLE",
        "RESPONSE_ROLE",
        help="worker-vllm's; only `assistant`, the one role that OpenAI's clients accept.",
    )
    generation_config: str | None = OTHERS.setting(
        None,
        "GENERATION_CONFIG",
        help="vLLM's; `vllm` becomes SGLang's `sampling_defaults=openai`: the model's own "
        "generation config does not apply. `auto` is the default.",
    )
    speculative_config: Options = OTHERS.setting(
        {},
        "SPECULATIVE_CONFIG",
        help="vLLM's, as a JSON object; becomes the SPECULATIVE_... settings.",
    )
    speculative_method: str | None = OTHERS.setting(
        None, "SPECULATIVE_METHOD", help="vLLM's; becomes SPECULATIVE_ALGORITHM."
    )
    vllm_extra_args: str | None = OTHERS.setting(
        None,
        "VLLM_EXTRA_ARGS",
        help="Flags of `vllm serve`: taken over as settings, before others from the same source.",
    )
    vllm_config_file: str | None = OTHERS.setting(
        None,
        "VLLM_CONFIG_FILE",
        help="YAML file of such flags; the environment wins over it.",
    )
    sglang_server_cmd: str | None = OTHERS.setting(
        None,
        "SGLANG_SERVER_CMD",
        help="Command line of an `sglang.launch_server`: its options are taken over, those that "
        "are also set otherwise excepted; host and port are left out.",
    )
    sglang_extra_args: str | None = OTHERS.setting(
        None,
        "SGLANG_EXTRA_ARGS",
        help="Options in the form of `sglang.launch_server`'s command line.",
    )

    # -- what the rest of the program asks ---------------------------------------------------------
    @property
    def names(self) -> tuple[str, ...]:
        """Names that the model is served under; the first is the one that answers show."""
        return tuple(name for name in self.served_model_name if name != _ANY) or (self.model_path,)

    @property
    def takes_any_name(self) -> bool:
        """A request may ask for the model by whatever name."""
        return _ANY in self.served_model_name

    @property
    def collector(self) -> str | None:
        """Where spans would be sent; None: nowhere."""
        if (
            self.otel_exporter_otlp_traces_endpoint is not None
            or self.otel_exporter_otlp_endpoint is None
        ):
            return self.otel_exporter_otlp_traces_endpoint
        return self.otel_exporter_otlp_endpoint.rstrip("/") + "/v1/traces"

    @property
    def traces_switched_off_by(self) -> str | None:
        """The variable that says so, whatever the collector is."""
        if self.otel_sdk_disabled:
            return "OTEL_SDK_DISABLED"
        exporter = (self.otel_traces_exporter or "").strip().lower()
        return "OTEL_TRACES_EXPORTER" if exporter == "none" else None

    @property
    def traces_endpoint(self) -> str | None:
        """Where spans are sent; None: nowhere."""
        return self.collector if self.traces_switched_off_by is None else None

    @property
    def health_port(self) -> int | None:
        """Where only the health routes answer; None: there is no such port."""
        return None if self.port_health == self.port else self.port_health

    @property
    def health_path(self) -> str | None:
        """A further path of the health check, without a slash at its end."""
        return self.health_check_path and self.health_check_path.rstrip("/")

    def most_body_bytes(self, *, pictures: bool) -> int:
        """`pictures`: the model takes them."""
        return most_body_bytes(self.max_body_bytes, pictures=pictures)

    @property
    def adapters(self) -> dict[str, str]:
        """Name -> path of those that are loaded at the start."""
        return self.lora_modules | self.lora_paths

    @property
    def serves_adapters(self) -> bool:
        return self.enable_lora or bool(self.adapters) or self.lora_folder is not None

    @property
    def most_adapters(self) -> int:
        """That are loaded at a time."""
        return self.max_cpu_loras or max(32, self.max_loras, len(self.adapters))

    @property
    def networked(self) -> bool:
        """A network endpoint is to be registered; load() has checked that all it needs is set."""
        return self.hathora_networking and self.gcp_key is not None

    def engine_options(self) -> dict[str, Any]:
        """SGLang's options, as far as they are set; False switches are left to its defaults."""
        options = {
            declared.engine_option: value
            for field, declared in DECLARATIONS.items()
            if declared.engine_option is not None
            and (value := getattr(self, field)) is not None
            and value is not False
            and value != {}
        }
        options.pop("tp_size", None)  # the launch counts GPUs and heads
        if self.nnodes == 1:
            del options["nnodes"], options["node_rank"]
        if self.tokenizer_workers == 1:
            del options["tokenizer_worker_num"]
        if self.model_loader_extra_config:
            options["model_loader_extra_config"] = json.dumps(self.model_loader_extra_config)
        rope = {"rope_scaling": self.rope_scaling, "rope_theta": self.rope_theta}
        changed = {name: value for name, value in rope.items() if value} | self.config_overrides
        if changed:
            options["json_model_override_args"] = json.dumps(changed)
        if self.log_requests:
            options |= {
                "log_requests": True,
                "log_requests_level": 3 if self.log_level == "debug" else 1,
            }
        return options | self.engine_args


DECLARATIONS: dict[str, Declaration] = declarations(Settings)
"""Field -> its declaration."""


def most_body_bytes(configured: int | None, *, pictures: bool) -> int:
    """Of a request; `pictures`: it may have some."""
    return configured or (24 if pictures else 4) * 2**20
