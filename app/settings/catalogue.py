"""Every setting of the server: one frozen class, the only reader of the environment.

Precedence: command line > environment > DEPLOYMENT_CONFIG_JSON > default. A setting is one field;
each further name that people know it by is one more string in its declaration. All names work in
all three places: `TP_SIZE=2`, `--tp-size 2`, `{"tp_size": 2}`. An empty value means "not set",
except where the field says otherwise.

docs/settings.md is generated from this file (`make docs`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.errors import ConfigError
from app.settings import translations

DEPLOYMENT_CONFIG = "DEPLOYMENT_CONFIG_JSON"
DEMO_MODEL = "SmolLM2-135M-Instruct"


def _listed(value: object) -> object:
    """`a, b` and `["a", "b"]` are both lists; so is a lone value."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"must be a JSON object: {error}") from None


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Secrets: TypeAlias = Annotated[tuple[SecretStr, ...], BeforeValidator(_listed)]
Options: TypeAlias = Annotated[dict[str, Any], BeforeValidator(_decoded)]
TensorParallel: TypeAlias = Annotated[
    Annotated[int, Field(ge=1)] | Literal["auto"] | None, BeforeValidator(_lowered)
]
LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error"], BeforeValidator(_lowered)
]


def setting(
    default: Any,
    *names: str,
    help: str,
    section: str,
    engine: str | None = None,
    empty: bool = False,
    flag: bool = True,
    **bounds: Any,
) -> Any:
    """Declare a setting.

    `names`: what it is called, the preferred one first. `engine`: the SGLang option it is passed
    on as, if it is set. `empty`: an empty string is a value. `flag`: the command line may set it.
    """
    about: dict[str, Any] = {
        "names": list(names),
        "section": section,
        "engine": engine,
        "empty": empty,
        "flag": flag,
    }
    return Field(default, description=help, json_schema_extra=about, **bounds)


class Settings(BaseSettings):
    """The effective configuration. `origin(field)` says where a value came from."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=()
    )

    # -- the model ---------------------------------------------------------------------------
    engine: Literal["sglang", "scripted"] = setting(
        "sglang", "ENGINE", section="Model",
        help="`sglang` runs the model. `scripted` runs none: every endpoint answers by a script, "
        "for trying the API out and for tests.",
    )  # fmt: skip
    model_path: str = setting(
        "meta-llama/Meta-Llama-3.1-8B-Instruct", "MODEL_PATH", "MODEL_NAME", "MODEL", "MODEL_ID",
        section="Model", engine="model_path",
        help="Local folder or Hugging Face repository of the model.",
    )  # fmt: skip
    cache_dir: str = setting(
        "~/.cache/serve-hathora", "CACHE_DIR", section="Model",
        help="Where the demo model is kept.",
    )  # fmt: skip
    demo: bool = setting(
        False, "DEMO", section="Model",
        help="Serve the small demo model (SmolLM2-135M-Instruct), fetched on first use.",
    )  # fmt: skip
    served_model_name: Names = setting(
        (), "SERVED_MODEL_NAME", "OPENAI_SERVED_MODEL_NAME_OVERRIDE", section="Model",
        help="Name of the model in the API; further names, separated by commas, are aliases. "
        "Default: MODEL_PATH.",
    )  # fmt: skip
    revision: str | None = setting(
        None, "MODEL_REVISION", "REVISION", section="Model", engine="revision",
        help="Branch, tag or commit of the model's repository.",
    )  # fmt: skip
    tokenizer_path: str | None = setting(
        None, "TOKENIZER_PATH", "TOKENIZER", "TOKENIZER_NAME", section="Model",
        engine="tokenizer_path", help="Tokenizer, if it is not beside the model.",
    )  # fmt: skip
    tokenizer_revision: str | None = setting(
        None, "TOKENIZER_REVISION", section="Model",
        help="Branch, tag or commit of TOKENIZER_PATH's repository.",
    )  # fmt: skip
    hf_token: SecretStr | None = setting(
        None, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", section="Model",
        help="Hugging Face token, for models that are gated or private.",
    )  # fmt: skip
    download_dir: str | None = setting(
        None, "DOWNLOAD_DIR", section="Model", engine="download_dir",
        help="Where weights are downloaded to. Default: Hugging Face's cache (HF_HOME).",
    )  # fmt: skip
    tokenizer_mode: str | None = setting(
        None, "TOKENIZER_MODE", section="Model", engine="tokenizer_mode",
        help="`auto` takes the fast tokenizer if there is one.",
    )  # fmt: skip
    chat_template: str | None = setting(
        None, "CHAT_TEMPLATE", section="Model", engine="chat_template",
        help="Name of one of SGLang's templates, or a path. Default: the model's own.",
    )  # fmt: skip
    tool_call_parser: str | None = setting(
        "auto", "TOOL_CALL_PARSER", "DYN_TOOL_CALL_PARSER", section="Model",
        engine="tool_call_parser",
        help="SGLang's name for the format in which the model calls tools (other servers' names "
        "are taken, too). `auto`: by its chat template; `none`: as text, in the Hermes format.",
    )  # fmt: skip
    reasoning_parser: str | None = setting(
        "auto", "REASONING_PARSER", "DYN_REASONING_PARSER", section="Model",
        engine="reasoning_parser",
        help="SGLang's name for the format in which the model thinks. `auto`: by its chat "
        "template; `none`: thinking stays in the text.",
    )  # fmt: skip
    custom_chat_template: str | None = setting(
        None, "CUSTOM_CHAT_TEMPLATE", section="Model",
        help="Chat template as Jinja text, instead of CHAT_TEMPLATE.",
    )  # fmt: skip
    reasoning_alias: bool = setting(
        False, "REASONING_ALIAS", section="Model",
        help="Answers carry the thinking as `reasoning`, beside `reasoning_content`.",
    )  # fmt: skip
    trust_remote_code: bool = setting(
        False, "TRUST_REMOTE_CODE", section="Model", engine="trust_remote_code",
        help="Run Python code that comes with the model's files.",
    )  # fmt: skip
    load_format: str | None = setting(
        None, "LOAD_FORMAT", section="Model", engine="load_format",
        help="Format of the weights (`auto`, `safetensors`, `pt`, `dummy`, ...).",
    )  # fmt: skip
    dtype: str | None = setting(
        None, "DTYPE", section="Model", engine="dtype",
        help="Data type of weights and activations (`auto`, `bfloat16`, `half`, ...).",
    )  # fmt: skip
    quantization: str | None = setting(
        None, "QUANTIZATION", section="Model", engine="quantization",
        help="Quantization method of the weights (`fp8`, `awq`, `gptq`, ...).",
    )  # fmt: skip
    kv_cache_dtype: str | None = setting(
        None, "KV_CACHE_DTYPE", section="Model", engine="kv_cache_dtype",
        help="Data type of the KV cache.",
    )  # fmt: skip
    context_length: int | None = setting(
        None, "CONTEXT_LENGTH", "MAX_MODEL_LEN", section="Model", engine="context_length", ge=1,
        help="The model's context in tokens. Default: what its config says.",
    )  # fmt: skip

    quantization_param_path: str | None = setting(
        None, "QUANTIZATION_PARAM_PATH", section="Model", engine="quantization_param_path",
        help="File with the scaling factors of an fp8 KV cache.",
    )  # fmt: skip
    model_loader_extra_config: Options = setting(
        {}, "MODEL_LOADER_EXTRA_CONFIG", section="Model",
        help="Options of the model loader, as a JSON object.",
    )  # fmt: skip
    rope_scaling: Options = setting(
        {}, "ROPE_SCALING", section="Model",
        help="`rope_scaling` of the model's config, as a JSON object.",
    )  # fmt: skip
    rope_theta: float | None = setting(
        None, "ROPE_THETA", section="Model", gt=0, help="`rope_theta` of the model's config.",
    )  # fmt: skip

    # -- the engine --------------------------------------------------------------------------
    device: str | None = setting(
        None, "DEVICE", section="Engine",
        help="`cuda`, `cpu`, ... A device that is asked for and missing stops the start. Default: "
        "the GPU if there is one, else the CPU.",
    )  # fmt: skip
    tp_size: TensorParallel = setting(
        None, "TP_SIZE", "TENSOR_PARALLEL_SIZE", section="Engine", engine="tp_size",
        help="GPUs that one model is split over; `auto`: as many of the visible ones as its heads "
        "allow. Default: 1, but `auto` for gpt-oss-120b.",
    )  # fmt: skip
    pp_size: int | None = setting(
        None, "PIPELINE_PARALLEL_SIZE", "PP_SIZE", section="Engine", engine="pp_size", ge=1,
        help="Stages that the model's layers are split into.",
    )  # fmt: skip
    expert_parallel: bool = setting(
        False, "ENABLE_EXPERT_PARALLEL", section="Engine",
        help="Split the experts of a mixture, too: SGLang's `ep_size` becomes TP_SIZE.",
    )  # fmt: skip
    nnodes: int = setting(
        1, "NNODES", section="Engine", engine="nnodes", ge=1,
        help="Machines that one model is split over; docs/scaling.md.",
    )  # fmt: skip
    node_rank: int = setting(
        0, "NODE_RANK", section="Engine", engine="node_rank", ge=0,
        help="Which of them this is; 0 serves, the others only answer health.",
    )  # fmt: skip
    dist_init_addr: str | None = setting(
        None, "DIST_INIT_ADDR", section="Engine", engine="dist_init_addr",
        help="host:port of node 0, where the machines meet.",
    )  # fmt: skip
    dp_size: int | None = setting(
        None, "DATA_PARALLEL_SIZE", "DP_SIZE", section="Engine", engine="dp_size", ge=1,
        help="Replicas of the model in this engine.",
    )  # fmt: skip
    load_balance_method: str | None = setting(
        None, "LOAD_BALANCE_METHOD", section="Engine", engine="load_balance_method",
        help="How requests are spread over replicas.",
    )  # fmt: skip
    mem_fraction_static: float | None = setting(
        None, "MEM_FRACTION_STATIC", section="Engine", engine="mem_fraction_static", gt=0, lt=1,
        help="Part of the memory for weights and KV cache.",
    )  # fmt: skip
    kv_pool_tokens: int | None = setting(
        None, "KV_POOL_TOKENS", section="Engine", engine="max_total_tokens", ge=1,
        help="Size of the KV cache in tokens (SGLang's `max_total_tokens`).",
    )  # fmt: skip
    max_running_requests: int | None = setting(
        None, "MAX_RUNNING_REQUESTS", "MAX_NUM_SEQS", section="Engine",
        engine="max_running_requests", ge=1, help="Requests in one batch of the engine.",
    )  # fmt: skip
    chunked_prefill_size: int | None = setting(
        None, "CHUNKED_PREFILL_SIZE", section="Engine", engine="chunked_prefill_size", ge=-1,
        help="Tokens in one chunk of a prefill; -1 switches chunking off.",
    )  # fmt: skip
    chunked_prefill: bool | None = setting(
        None, "CHUNKED_PREFILL", "ENABLE_CHUNKED_PREFILL", section="Engine",
        help="False: as CHUNKED_PREFILL_SIZE=-1. Default: SGLang's choice, which is to chunk.",
    )  # fmt: skip
    max_prefill_tokens: int | None = setting(
        None, "MAX_PREFILL_TOKENS", "MAX_NUM_BATCHED_TOKENS", section="Engine",
        engine="max_prefill_tokens", ge=1, help="Tokens in one prefill batch.",
    )  # fmt: skip
    schedule_policy: str | None = setting(
        None, "SCHEDULE_POLICY", section="Engine", engine="schedule_policy",
        help="Order of the engine's queue (`fcfs`, `lpm`, ...).",
    )  # fmt: skip
    schedule_conservativeness: float | None = setting(
        None, "SCHEDULE_CONSERVATIVENESS", section="Engine", engine="schedule_conservativeness",
        gt=0, help="Higher: fewer requests are retracted under memory pressure.",
    )  # fmt: skip
    stream_interval: int | None = setting(
        None, "STREAM_INTERVAL", section="Engine", engine="stream_interval", ge=1,
        help="Tokens between two pieces of a stream.",
    )  # fmt: skip
    random_seed: int | None = setting(
        None, "RANDOM_SEED", "SEED", section="Engine", engine="random_seed",
        help="Seed of the engine.",
    )  # fmt: skip
    attention_backend: str | None = setting(
        None, "ATTENTION_BACKEND", section="Engine", engine="attention_backend",
        help="Attention kernels.",
    )  # fmt: skip
    sampling_backend: str | None = setting(
        None, "SAMPLING_BACKEND", section="Engine", engine="sampling_backend",
        help="Sampling kernels.",
    )  # fmt: skip
    disable_radix_cache: bool = setting(
        False, "DISABLE_RADIX_CACHE", section="Engine", engine="disable_radix_cache",
        help="No reuse of the KV cache between requests.",
    )  # fmt: skip
    disable_cuda_graph: bool = setting(
        False, "DISABLE_CUDA_GRAPH", "ENFORCE_EAGER", section="Engine",
        engine="disable_cuda_graph", help="No CUDA graphs.",
    )  # fmt: skip
    disable_custom_all_reduce: bool = setting(
        False, "DISABLE_CUSTOM_ALL_REDUCE", section="Engine", engine="disable_custom_all_reduce",
        help="NCCL instead of SGLang's own all-reduce kernel.",
    )  # fmt: skip
    cpu_offload_gb: int | None = setting(
        None, "CPU_OFFLOAD_GB", section="Engine", engine="cpu_offload_gb", ge=0,
        help="GiB of weights kept in the machine's memory.",
    )  # fmt: skip
    enable_memory_saver: bool = setting(
        False, "ENABLE_MEMORY_SAVER", section="Engine", engine="enable_memory_saver",
        help="Memory that can be released and taken back while running.",
    )  # fmt: skip
    speculative_algorithm: str | None = setting(
        None, "SPECULATIVE_ALGORITHM", section="Engine", engine="speculative_algorithm",
        help="Speculative decoding: `EAGLE`, `EAGLE3`, `STANDALONE`, `NGRAM`, ... Default: none, "
        "or `STANDALONE` with a draft model.",
    )  # fmt: skip
    speculative_model: str | None = setting(
        None, "SPECULATIVE_DRAFT_MODEL_PATH", "SPECULATIVE_MODEL", section="Engine",
        engine="speculative_draft_model_path",
        help="Draft model for speculative decoding; `[ngram]`: none, take SPECULATIVE_ALGORITHM="
        "NGRAM.",
    )  # fmt: skip
    speculative_num_steps: int | None = setting(
        None, "SPECULATIVE_NUM_STEPS", section="Engine", engine="speculative_num_steps", ge=1,
        help="Steps of the draft model.",
    )  # fmt: skip
    speculative_eagle_topk: int | None = setting(
        None, "SPECULATIVE_EAGLE_TOPK", section="Engine", engine="speculative_eagle_topk", ge=1,
        help="Branches of the draft in each step.",
    )  # fmt: skip
    num_speculative_tokens: int | None = setting(
        None, "SPECULATIVE_NUM_DRAFT_TOKENS", "NUM_SPECULATIVE_TOKENS", section="Engine",
        engine="speculative_num_draft_tokens", ge=1, help="Tokens of one draft.",
    )  # fmt: skip
    disable_outlines_disk_cache: bool = setting(
        False, "DISABLE_OUTLINES_DISK_CACHE", section="Engine",
        engine="disable_outlines_disk_cache", help="No disk cache of the outlines grammar backend.",
    )  # fmt: skip
    enable_torch_compile: bool = setting(
        False, "ENABLE_TORCH_COMPILE", section="Engine", engine="enable_torch_compile",
        help="Compile the model with torch.compile.",
    )  # fmt: skip
    enable_p2p_check: bool = setting(
        False, "ENABLE_P2P_CHECK", section="Engine", engine="enable_p2p_check",
        help="Check peer-to-peer access between GPUs.",
    )  # fmt: skip
    enable_flashinfer_mla: bool = setting(
        False, "ENABLE_FLASHINFER_MLA", section="Engine",
        help="Obsolete: taken as ATTENTION_BACKEND=flashinfer.",
    )  # fmt: skip
    triton_attention_reduce_in_fp32: bool = setting(
        False, "TRITON_ATTENTION_REDUCE_IN_FP32", section="Engine",
        engine="triton_attention_reduce_in_fp32", help="Accumulate Triton attention in fp32.",
    )  # fmt: skip
    skip_tokenizer_init: bool = setting(
        False, "SKIP_TOKENIZER_INIT", section="Engine",
        help="Refused if true: this server tokenises every prompt.",
    )  # fmt: skip
    file_storage_path: str | None = setting(
        None, "FILE_STORAGE_PATH", section="Engine", engine="file_storage_path",
        help="Folder for SGLang's file storage.",
    )  # fmt: skip
    show_time_cost: bool = setting(
        False, "SHOW_TIME_COST", section="Engine", engine="show_time_cost",
        help="SGLang prints the time of its custom marks.",
    )  # fmt: skip
    engine_args: Options = setting(
        {}, "ENGINE_ARGS", section="Engine",
        help="Any other option of SGLang, as a JSON object; on the command line also "
        "`--engine-arg name=value`, repeated. Wins over the settings above.",
    )  # fmt: skip

    # -- the server --------------------------------------------------------------------------
    host: str = setting("0.0.0.0", "HOST", section="Server", help="Address to listen on.")
    port: int = setting(
        8000, "PORT", section="Server", ge=0, le=65535,
        help="Port to listen on; 0 takes a free one.",
    )  # fmt: skip
    api_key: Secrets = setting(
        (), "API_KEY", section="Server",
        help="One or several keys, separated by commas. None: the API is open.",
    )  # fmt: skip
    admin_api_key: Secrets = setting(
        (), "ADMIN_API_KEY", section="Server",
        help="One or several keys that also open the operator's routes (/flush_cache, "
        "/abort_request, /start_profile, /stop_profile). None: there are no such routes.",
    )  # fmt: skip
    cors_origins: Names = setting(
        (), "CORS_ORIGINS", section="Server",
        help="Origins that browsers may call from, separated by commas; `*` for all. None: CORS is "
        "off.",
    )  # fmt: skip
    forwarded_allow_ips: str = setting(
        "127.0.0.1", "FORWARDED_ALLOW_IPS", section="Server",
        help="Proxies whose X-Forwarded-For is believed, separated by commas; `*` for all.",
    )  # fmt: skip
    tokenizer_workers: int = setting(
        1, "TOKENIZER_WORKERS", "TOKENIZER_WORKER_NUM", section="Server",
        engine="tokenizer_worker_num", ge=1, le=64,
        help="Serving processes that share the port and one engine; docs/scaling.md.",
    )  # fmt: skip
    drain_timeout_s: float = setting(
        30.0, "DRAIN_TIMEOUT", section="Server", ge=0,
        help="Seconds that requests may take to finish after SIGTERM.",
    )  # fmt: skip
    heartbeat_s: float = setting(
        15.0, "HEARTBEAT_INTERVAL", section="Server", gt=0,
        help="Seconds of silence after which a stream is sent an SSE comment.",
    )  # fmt: skip

    # -- bounds ------------------------------------------------------------------------------
    max_concurrency: int = setting(
        512, "MAX_CONCURRENCY", section="Bounds", ge=1,
        help="Requests in the engine at a time; each of several TOKENIZER_WORKERS has its share.",
    )  # fmt: skip
    max_queue: int = setting(
        1024, "MAX_QUEUE", "MAX_QUEUED_REQUESTS", section="Bounds", ge=0,
        help="Requests that wait for their turn, shared out in the same way; past it 503 with "
        "Retry-After.",
    )  # fmt: skip
    max_total_tokens: int | None = setting(
        None, "MAX_TOTAL_TOKENS", section="Bounds", ge=1,
        help="Tokens of one request, prompt and answer together. Not the size of the KV cache: "
        "that is KV_POOL_TOKENS (SGLang and worker-sglang mean the latter by this name). "
        "Default: the model's context.",
    )  # fmt: skip
    max_header_bytes: int = setting(
        16 * 1024, "MAX_HEADER_BYTES", section="Bounds", ge=512,
        help="Size of a request's line and headers together; past it 431.",
    )  # fmt: skip
    max_headers: int = setting(
        100, "MAX_HEADERS", section="Bounds", ge=10,
        help="Header fields of a request; past it 431.",
    )  # fmt: skip
    header_timeout_s: float = setting(
        10.0, "HEADER_TIMEOUT", section="Bounds", gt=0,
        help="Seconds from the first byte of a request to the end of its headers; past it 408. "
        "A connection on which nothing is ever sent ends after as many.",
    )  # fmt: skip
    max_body_bytes: int = setting(
        4 * 1024 * 1024, "MAX_BODY_BYTES", section="Bounds", ge=1024,
        help="Size of a request's body; past it 413.",
    )  # fmt: skip
    body_timeout_s: float = setting(
        30.0, "BODY_TIMEOUT", section="Bounds", gt=0,
        help="Seconds that a client may take to send its body; past it 408.",
    )  # fmt: skip
    min_body_rate: int = setting(
        1024, "MIN_BODY_RATE", section="Bounds", ge=0,
        help="Bytes a second that a body must arrive with, after five seconds; below it 408. "
        "0: any rate will do.",
    )  # fmt: skip
    write_timeout_s: float = setting(
        60.0, "WRITE_TIMEOUT", section="Bounds", gt=0,
        help="Seconds that a client may leave its stream unread before it is cut off.",
    )  # fmt: skip
    max_choices: int = setting(
        8, "MAX_CHOICES", section="Bounds", ge=1, le=128,
        help="Largest `n` of a request.",
    )  # fmt: skip
    max_stops: int = setting(
        16, "MAX_STOPS", section="Bounds", ge=0, le=32,
        help="Stop strings of a request (OpenAI takes 4).",
    )  # fmt: skip
    max_stop_chars: int = setting(
        256, "MAX_STOP_CHARS", section="Bounds", ge=1, le=4096,
        help="Characters of one stop string.",
    )  # fmt: skip
    max_stop_token_ids: int = setting(
        64, "MAX_STOP_TOKEN_IDS", section="Bounds", ge=0, le=1024,
        help="Stop token ids of a request.",
    )  # fmt: skip
    max_logit_biases: int = setting(
        300, "MAX_LOGIT_BIASES", section="Bounds", ge=0, le=4096,
        help="Tokens of `logit_bias`.",
    )  # fmt: skip
    max_prompts: int = setting(
        64, "MAX_PROMPTS", section="Bounds", ge=1, le=4096,
        help="Prompts in one completion request.",
    )  # fmt: skip
    max_inputs: int = setting(
        2048, "MAX_INPUTS", section="Bounds", ge=1,
        help="Texts in one request for embeddings.",
    )  # fmt: skip
    max_messages: int = setting(
        2048, "MAX_MESSAGES", section="Bounds", ge=1,
        help="Messages in one conversation.",
    )  # fmt: skip
    max_prompt_chars: int | None = setting(
        None, "MAX_PROMPT_CHARS", section="Bounds", ge=1,
        help="Characters of one prompt, checked before it is tokenised. Default: eight for each "
        "token of the context, at most 2,000,000.",
    )  # fmt: skip
    max_prompt_scores: int = setting(
        1_000_000, "MAX_PROMPT_SCORES", section="Bounds", ge=1,
        help="Log-probabilities of prompts in one request: tokens of its prompts, times "
        "alternatives and one, times `n`.",
    )  # fmt: skip
    max_logprobs: int = setting(
        20, "MAX_LOGPROBS", section="Bounds", ge=0, le=20,
        help="Largest `top_logprobs` of a request.",
    )  # fmt: skip
    max_tools: int = setting(
        128, "MAX_TOOLS", section="Bounds", ge=1,
        help="Tools in one request.",
    )  # fmt: skip
    max_schema_bytes: int = setting(
        64 * 1024, "MAX_SCHEMA_BYTES", section="Bounds", ge=256,
        help="Size of one JSON schema (of a tool's arguments or a response format) or grammar.",
    )  # fmt: skip
    max_schema_depth: int = setting(
        32, "MAX_SCHEMA_DEPTH", section="Bounds", ge=4,
        help="Objects and arrays inside each other in one JSON schema.",
    )  # fmt: skip
    max_schema_nodes: int = setting(
        1000, "MAX_SCHEMA_NODES", section="Bounds", ge=16,
        help="Objects, arrays and values in one JSON schema.",
    )  # fmt: skip
    max_schema_enum: int = setting(
        500, "MAX_SCHEMA_ENUM", section="Bounds", ge=1,
        help="Values of one enum in a JSON schema.",
    )  # fmt: skip
    max_regex_chars: int = setting(
        1024, "MAX_REGEX_CHARS", section="Bounds", ge=1,
        help="Characters of one regular expression.",
    )  # fmt: skip
    max_regex_repeat: int = setting(
        1000, "MAX_REGEX_REPEAT", section="Bounds", ge=1,
        help="Largest number in a `{n,m}` of a regular expression.",
    )  # fmt: skip
    grammar_timeout_s: float = setting(
        10.0, "GRAMMAR_TIMEOUT", section="Bounds", gt=0,
        help="Seconds of processor time that a new schema or grammar may take to compile; past it "
        "400.",
    )  # fmt: skip
    allow_grammars: bool = setting(
        False, "ALLOW_GRAMMARS", section="Bounds",
        help="Take `regex`, `ebnf`, `structural_tag` and vLLM's `guided_*` from clients.",
    )  # fmt: skip
    template_kwargs: Names = setting(
        ("enable_thinking", "thinking"), "ALLOWED_TEMPLATE_KWARGS", section="Bounds",
        help="`chat_template_kwargs` that clients may set; their values are booleans or short "
        "words.",
    )  # fmt: skip
    max_json_depth: int = setting(
        64, "MAX_JSON_DEPTH", section="Bounds", ge=8, le=1000,
        help="Objects and arrays inside each other in a request's JSON.",
    )  # fmt: skip
    max_json_nodes: int = setting(
        100_000, "MAX_JSON_NODES", section="Bounds", ge=100,
        help="Objects, arrays, strings (keys too) and literals in a request's JSON; of numbers, "
        "such as token ids, ten count as one.",
    )  # fmt: skip
    max_stream_interval: int = setting(
        4, "MAX_STREAM_INTERVAL", section="Bounds", ge=1, le=64,
        help="Steps of the engine whose tokens may share one frame while the event loop lags, so "
        "that overload makes streams coarser before it makes them slower; 1: never.",
    )  # fmt: skip

    # -- logs and metrics --------------------------------------------------------------------
    log_level: LogLevel = setting(
        "info", "LOG_LEVEL", section="Logs and metrics",
        help="`debug` shows the content of prompts and answers; nothing above it does.",
    )  # fmt: skip
    log_level_http: LogLevel | None = setting(
        None, "LOG_LEVEL_HTTP", section="Logs and metrics",
        help="Level of the HTTP server's own messages. Default: LOG_LEVEL.",
    )  # fmt: skip
    log_format: Literal["auto", "console", "json"] = setting(
        "auto", "LOG_FORMAT", section="Logs and metrics",
        help="`auto`: console on a terminal, else JSON.",
    )  # fmt: skip
    log_file: str = setting(
        "serve_hathora.log", "LOG_FILE", section="Logs and metrics", empty=True,
        help="Also log to this file, rotated at 10 MB, five kept. Empty: no file.",
    )  # fmt: skip
    max_log_len: int | None = setting(
        None, "MAX_LOG_LEN", section="Logs and metrics", ge=0,
        help="Bytes of a request's body in the log, at LOG_LEVEL=debug. Default: all.",
    )  # fmt: skip
    log_requests: bool = setting(
        False, "LOG_REQUESTS", section="Logs and metrics",
        help="SGLang logs each request as well; with LOG_LEVEL=debug its content too.",
    )  # fmt: skip
    enable_metrics: bool = setting(
        True, "ENABLE_METRICS", section="Logs and metrics",
        help="Serve /metrics, SGLang's own series included.",
    )  # fmt: skip

    # -- warm-up -----------------------------------------------------------------------------
    warmup_on_start: bool = setting(
        False, "WARMUP_ON_START", section="Warm-up",
        help="Answer WARMUP_PROMPT before the server is ready; with SGLANG_BASE_URL, ask that "
        "server. One token is generated before \"ready\" in any case.",
    )  # fmt: skip
    warmup_model: str | None = setting(
        None, "WARMUP_MODEL", section="Warm-up",
        help="Model to ask with SGLANG_BASE_URL. Default: SGLANG_MODEL.",
    )  # fmt: skip
    warmup_prompt: str = setting(
        "ping", "WARMUP_PROMPT", section="Warm-up", help="What is asked.",
    )  # fmt: skip
    warmup_max_tokens: int = setting(
        1, "WARMUP_MAX_TOKENS", section="Warm-up", ge=1, help="Tokens of the answer.",
    )  # fmt: skip

    # -- Hathora and Google Cloud ------------------------------------------------------------
    hathora_networking: bool = setting(
        True, "HATHORA_NETWORKING", section="Hathora and Google Cloud",
        help="False: register nowhere, even if the four below are set.",
    )  # fmt: skip
    hathora_hostname: str | None = setting(
        None, "HATHORA_HOSTNAME", section="Hathora and Google Cloud",
        help="Name that this server is reached by; its address finds the virtual machine.",
    )  # fmt: skip
    hathora_default_port: int | None = setting(
        None, "HATHORA_DEFAULT_PORT", section="Hathora and Google Cloud", ge=1, le=65535,
        help="Port of the endpoint that is registered; also the default of PORT.",
    )  # fmt: skip
    hathora_region: str = setting(
        "unknown", "HATHORA_REGION", section="Hathora and Google Cloud",
        help="Region, shown in headers and /health.",
    )  # fmt: skip
    gcp_key: SecretStr | None = setting(
        None, "GCP_SERVICE_ACCOUNT_KEY_BASE64", section="Hathora and Google Cloud", flag=False,
        help="Service account key (JSON), base64. Never written to disk, unknown to the serving "
        "process, not accepted on the command line. With HATHORA_HOSTNAME, HATHORA_DEFAULT_PORT "
        "and HATHORA_REGION it switches networking on: all four or none.",
    )  # fmt: skip
    gcp_project: str | None = setting(
        None, "GCP_PROJECT", section="Hathora and Google Cloud",
        help="Project of the group. Default: the key's.",
    )  # fmt: skip
    gcp_neg_name: str = setting(
        "llm-serve-{zone}", "GCP_NEG_NAME", section="Hathora and Google Cloud",
        help="Network endpoint group; `{zone}` and `{region}` are filled in.",
    )  # fmt: skip
    gcp_neg_scope: Literal["zonal", "regional", "global"] = setting(
        "zonal", "GCP_NEG_SCOPE", section="Hathora and Google Cloud",
        help="Of the group. `zonal`: of virtual machines in the project; `regional` and `global`: "
        "internet endpoints (name or address), for a server that runs elsewhere.",
    )  # fmt: skip
    gcp_region: str | None = setting(
        None, "GCP_REGION", section="Hathora and Google Cloud",
        help="Google Cloud region of a `regional` group.",
    )  # fmt: skip
    gcp_neg_required: bool = setting(
        False, "GCP_NEG_REQUIRED", section="Hathora and Google Cloud",
        help="True: a registration that fails ends the server (exit 72). False: it serves on, says "
        "so in /health, and tries again in the background.",
    )  # fmt: skip
    gcp_timeout_s: float = setting(
        60.0, "GCP_TIMEOUT", section="Hathora and Google Cloud", gt=0,
        help="Seconds for one registration, all calls and retries together; as many again for "
        "removing it.",
    )  # fmt: skip
    gcp_api_endpoint: str | None = setting(
        None, "GCP_API_ENDPOINT", section="Hathora and Google Cloud",
        help="Address of the Compute API, if it is not Google's public one.",
    )  # fmt: skip
    public_ip: str | None = setting(
        None, "PUBLIC_IP", section="Hathora and Google Cloud",
        help="This server's public IPv4 address. Default: what HATHORA_HOSTNAME resolves to.",
    )  # fmt: skip

    # -- RunPod serverless -------------------------------------------------------------------
    upstream_url: str | None = setting(
        None, "SGLANG_BASE_URL", section="RunPod serverless",
        help="Forward every job to this OpenAI-compatible server; no engine is started. `/v1` at "
        "its end may be left out.",
    )  # fmt: skip
    upstream_api_key: SecretStr | None = setting(
        None, "SGLANG_API_KEY", section="RunPod serverless", help="Bearer token for that server.",
    )  # fmt: skip
    upstream_model: str | None = setting(
        None, "SGLANG_MODEL", section="RunPod serverless",
        help="Model for jobs that name none. Default: `default`.",
    )  # fmt: skip
    upstream_timeout_s: float = setting(
        300.0, "SGLANG_TIMEOUT", section="RunPod serverless", gt=0,
        help="Seconds that server may stay silent: before its answer, and between two pieces.",
    )  # fmt: skip
    job_output: Literal["auto", "openai", "vllm"] = setting(
        "auto", "JOB_OUTPUT", section="RunPod serverless",
        help="Output of jobs with `messages` or `prompt`: OpenAI's JSON, or worker-vllm's "
        "`choices[].tokens`. `auto`: worker-vllm's for `prompt` and for jobs with "
        "`sampling_params`, OpenAI's for other `messages` and with SGLANG_BASE_URL.",
    )  # fmt: skip
    raw_openai_output: bool = setting(
        True, "RAW_OPENAI_OUTPUT", section="RunPod serverless",
        help="Streams of jobs are yielded as server-sent events (text); false: as lists of "
        "chunks (JSON).",
    )  # fmt: skip
    max_batch_size: int = setting(
        50, "DEFAULT_BATCH_SIZE", "MAX_BATCH_SIZE", section="RunPod serverless", ge=1,
        help="Pieces of a stream in one yield, at most; a job's `max_batch_size` overrides it.",
    )  # fmt: skip
    min_batch_size: int = setting(
        1, "DEFAULT_MIN_BATCH_SIZE", "MIN_BATCH_SIZE", section="RunPod serverless", ge=1,
        help="Pieces in the first yield of a stream; a job's `min_batch_size` overrides it.",
    )  # fmt: skip
    batch_size_growth_factor: float = setting(
        3.0, "DEFAULT_BATCH_SIZE_GROWTH_FACTOR", "BATCH_SIZE_GROWTH_FACTOR",
        section="RunPod serverless", ge=1,
        help="Each yield has so many times the pieces of the one before; a job's "
        "`batch_size_growth_factor` overrides it.",
    )  # fmt: skip
    refresh_worker: bool = setting(
        False, "REFRESH_WORKER", section="RunPod serverless",
        help="End the worker after each job, for a fresh one.",
    )  # fmt: skip

    # -- names of other servers ---------------------------------------------------------------
    gpu_memory_utilization: float | None = setting(
        None, "GPU_MEMORY_UTILIZATION", section="Other servers' settings", gt=0, le=1,
        help="vLLM's; becomes MEM_FRACTION_STATIC, 0.05 less, because SGLang's leaves out the "
        "activations.",
    )  # fmt: skip
    enable_prefix_caching: bool | None = setting(
        None, "ENABLE_PREFIX_CACHING", section="Other servers' settings",
        help="vLLM's; false becomes DISABLE_RADIX_CACHE=true.",
    )  # fmt: skip
    num_gpu_blocks_override: int | None = setting(
        None, "NUM_GPU_BLOCKS_OVERRIDE", section="Other servers' settings", ge=1,
        help="vLLM's; times BLOCK_SIZE (16) it becomes KV_POOL_TOKENS.",
    )  # fmt: skip
    block_size: int | None = setting(
        None, "BLOCK_SIZE", section="Other servers' settings", ge=1,
        help="vLLM's; used with NUM_GPU_BLOCKS_OVERRIDE only.",
    )  # fmt: skip
    guided_decoding_backend: str | None = setting(
        None, "GUIDED_DECODING_BACKEND", section="Other servers' settings",
        help="vLLM's; whatever it says, grammars are xgrammar's.",
    )  # fmt: skip
    openai_response_role: str | None = setting(
        None, "OPENAI_RESPONSE_ROLE", section="Other servers' settings",
        help="worker-vllm's; only `assistant`, the one role that OpenAI's clients accept.",
    )  # fmt: skip
    enable_lora: bool = setting(
        False, "ENABLE_LORA", section="Other servers' settings",
        help="Refused if true: adapters are not served.",
    )  # fmt: skip
    lora_modules: str | None = setting(
        None, "LORA_MODULES", section="Other servers' settings",
        help="Refused unless empty or `[]`: adapters are not served.",
    )  # fmt: skip
    sglang_server_cmd: str | None = setting(
        None, "SGLANG_SERVER_CMD", section="Other servers' settings",
        help="Command line of an `sglang.launch_server`: its options are taken over, those that "
        "are also set otherwise excepted; host and port are left out.",
    )  # fmt: skip
    sglang_extra_args: str | None = setting(
        None, "SGLANG_EXTRA_ARGS", section="Other servers' settings",
        help="Options in the form of `sglang.launch_server`'s command line.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        if self.skip_tokenizer_init:
            raise ValueError(
                "SKIP_TOKENIZER_INIT=true cannot be honoured: this server tokenises every prompt; "
                "remove it"
            )
        if self.quantization == "squeezellm":
            raise ValueError(
                "QUANTIZATION=squeezellm is gone from SGLang; take a checkpoint in another format "
                "(awq, gptq, fp8)"
            )
        if self.enable_lora or (self.lora_modules or "[]").strip() != "[]":
            raise ValueError(
                "ENABLE_LORA and LORA_MODULES cannot be honoured: adapters are not served; merge "
                "the adapter into the model, or remove them"
            )
        if self.openai_response_role not in (None, "assistant"):
            raise ValueError(
                "OPENAI_RESPONSE_ROLE cannot be honoured: OpenAI's clients accept no other role "
                "than assistant; remove it"
            )
        if self.custom_chat_template and self.chat_template:
            raise ValueError("CUSTOM_CHAT_TEMPLATE and CHAT_TEMPLATE exclude each other")
        if self.node_rank >= self.nnodes:
            raise ValueError(f"NODE_RANK must be below NNODES, which is {self.nnodes}")
        if self.nnodes > 1 and not self.dist_init_addr:
            raise ValueError("NNODES needs DIST_INIT_ADDR, the host:port of node 0")
        if self.min_batch_size > self.max_batch_size:
            raise ValueError("DEFAULT_MIN_BATCH_SIZE must not be over DEFAULT_BATCH_SIZE")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The layers are merged in load(), where each value's origin is kept.
        return (init_settings,)

    # -- what the rest of the program asks ---------------------------------------------------
    @property
    def names(self) -> tuple[str, ...]:
        """Names that the model is served under, the first one being shown."""
        return self.served_model_name or (self.model_path,)

    @property
    def networked(self) -> bool:
        """An endpoint is to be registered: load() has seen to it that all is there for it."""
        return self.hathora_networking and self.gcp_key is not None

    def engine_options(self) -> dict[str, Any]:
        """SGLang's options, as far as they are set; False switches are left to its defaults."""
        options = {
            _about(field)["engine"]: value
            for name, field in type(self).model_fields.items()
            if _about(field)["engine"]
            and (value := getattr(self, name)) is not None
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
        overrides = {"rope_scaling": self.rope_scaling, "rope_theta": self.rope_theta}
        if given := {name: value for name, value in overrides.items() if value}:
            options["json_model_override_args"] = json.dumps(given)
        if self.log_requests:
            options |= {
                "log_requests": True,
                "log_requests_level": 3 if self.log_level == "debug" else 1,
            }
        return options | self.engine_args


class Loaded:
    """Settings and how they came about."""

    def __init__(self, settings: Settings, origins: Mapping[str, str], warnings: Sequence[str]):
        self.settings = settings
        self.origins = origins
        """Field name -> `--flag`, an environment variable, or `DEPLOYMENT_CONFIG_JSON key`."""
        self.warnings = warnings


def load(
    argv: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    supervised: bool = False,
) -> Loaded:
    """Merge the layers and validate.

    `argv`: what `add_arguments` parsed; `environ`: os.environ by default; `supervised`: the
    supervisor has checked the network's settings and keeps the key. Raises ConfigError with one
    line that names the setting, its origin and what is accepted.
    """
    environ = os.environ if environ is None else environ
    config = _deployment_config(environ)
    given = (
        _read_layer(config, "{}", lower=True, where=DEPLOYMENT_CONFIG + " "),
        _read_layer(environ, "{}", lower=False),
        _read_layer(argv or {}, "--{}", lower=True),
    )
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in (*_launch_layers(given), *given):
        for field, (value, origin) in layer.items():
            if field == "engine_args" and field in values:
                value = _merge_options(values[field], value)
            values[field], origins[field] = value, origin
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins)) from None
    _check_keys(settings, origins)
    if not supervised:
        _check_network(settings, origins)
    if settings.demo:
        if "model_path" in origins:
            raise ConfigError(f"{origins['demo']} and {origins['model_path']} exclude each other")
        settings = settings.model_copy(update={"model_path": DEMO_MODEL})
    if settings.engine == "scripted" and "model_path" not in origins:
        settings = settings.model_copy(update={"model_path": "scripted"})
    if settings.hathora_default_port is not None and "port" not in origins:
        settings = settings.model_copy(update={"port": settings.hathora_default_port})
        origins["port"] = origins["hathora_default_port"]
    translated, warnings = translations.modernise(settings, origins)
    for name in Settings.model_fields:
        if getattr(translated, name) != getattr(settings, name):
            origins.setdefault(name, "another server's setting")
    warnings += translations.warn_of_gone({**{k.upper(): v for k, v in config.items()}, **environ})
    if unknown := _unknown(config):
        warnings.append(f"{DEPLOYMENT_CONFIG}: nothing here is called {', '.join(unknown)}")
    return Loaded(translated, origins, warnings)


_NETWORK = ("hathora_hostname", "hathora_default_port", "hathora_region", "gcp_key")


def _check_network(settings: Settings, origins: Mapping[str, str]) -> None:
    """All of the four that networking needs, or none."""
    missing = [name for name in _NETWORK if name not in origins]
    if settings.hathora_networking and missing and len(missing) < len(_NETWORK):
        given = ", ".join(origins[name] for name in _NETWORK if name in origins)
        wanted = ", ".join(_about(Settings.model_fields[name])["names"][0] for name in missing)
        raise ConfigError(
            f"Hathora networking needs {wanted}, too, beside {given}; set them, or "
            "HATHORA_NETWORKING=false to serve without it"
        )


def without_key(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for the serving process: no service account key in it."""
    left = dict(os.environ if environ is None else environ)
    names = {*_about(Settings.model_fields["gcp_key"])["names"], "GCP_KEY"}
    for name in names:
        left.pop(name, None)
    if config := _deployment_config(left):
        kept = {name: value for name, value in config.items() if name.upper() not in names}
        left[DEPLOYMENT_CONFIG] = json.dumps(kept)
    return left


_Layer: TypeAlias = dict[str, tuple[Any, str]]


def _launch_layers(layers: Sequence[_Layer]) -> tuple[_Layer, ...]:
    """What a replaced `sglang.launch_server` was started with; anything else wins over it."""
    found = []
    for field in ("sglang_server_cmd", "sglang_extra_args"):
        given = [layer[field] for layer in layers if field in layer]
        if not given:
            continue
        text, origin = given[-1]
        options = translations.launch_options(str(text), origin)
        layer = _read_layer(options, "--{}", lower=True, where=origin + " ")
        known = {_flag(n) for field in layer for n in _names(field)}
        others = {name.replace("-", "_"): _loose(v) for name, v in options.items()
                  if name not in known}  # fmt: skip
        if others:
            layer["engine_args"] = (others, origin)
        found.append(layer)
    return tuple(found)


def _loose(value: Any) -> Any:
    """A number or a switch if it reads as one; JSON objects stay text, which SGLang's options for
    them are."""
    if isinstance(value, list):
        return [_loose(each) for each in value]
    try:
        read = json.loads(value)
    except ValueError:
        return value
    return value if isinstance(read, dict | list) else read


def _names(field_name: str) -> list[str]:
    names = _about(Settings.model_fields[field_name])["names"]
    return list(dict.fromkeys((*names, field_name.upper())))


def _unknown(config: Mapping[str, Any]) -> list[str]:
    known = {name for field in Settings.model_fields for name in _names(field)}
    known |= translations.GONE.keys()
    return sorted(key for key in config if key.upper().replace("-", "_") not in known)


def _check_keys(settings: Settings, origins: Mapping[str, str]) -> None:
    for field in ("api_key", "admin_api_key"):
        keys = getattr(settings, field) or [SecretStr("")]
        if field in origins and not all(key.get_secret_value() for key in keys):
            raise ConfigError(f"{origins[field]}: a blank key would leave the API open")
    if set(settings.api_key) & set(settings.admin_api_key):
        raise ConfigError(
            f"{origins['admin_api_key']} and {origins['api_key']} must not have a key in common"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for every name of every setting, plus `--engine-arg name=value`."""
    groups: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        about = _about(field)
        if not about["flag"]:
            continue
        group = groups.setdefault(about["section"], parser.add_argument_group(about["section"]))
        flags = list(dict.fromkeys(_flag(n) for n in (*about["names"], name)))
        text = f"{field.description} [{about['names'][0]}]".replace("%", "%%")
        common: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
        for flag in flags:
            # Each spelling has a slot of its own, so that two that contradict are noticed.
            extra: dict[str, Any] = (
                {"nargs": "?", "const": "true", "metavar": "BOOL"}
                if field.annotation is bool
                else {"metavar": name.upper()}
            )
            shown = common if flag == flags[0] else common | {"help": argparse.SUPPRESS}
            group.add_argument(f"--{flag}", dest=flag, **shown, **extra)
    groups["Engine"].add_argument(
        "--engine-arg", dest="engine-arg", action=_EngineArg, metavar="NAME=VALUE",
        default=argparse.SUPPRESS, help="Any option of SGLang; may be repeated.",
    )  # fmt: skip


class _EngineArg(argparse.Action):
    """Collects `--engine-arg name=value`; the value is JSON if it reads as such, else text."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option: object = None
    ) -> None:
        name, found, text = str(values).partition("=")
        if not found or not name:
            raise argparse.ArgumentError(self, f"expected NAME=VALUE, got {values!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        try:
            before = _decoded(getattr(namespace, "engine-args", {}))
        except ValueError as error:
            raise argparse.ArgumentError(self, f"--engine-args: {error}") from None
        options = {**cast("dict[str, Any]", before), name.replace("-", "_"): value}
        setattr(namespace, "engine-args", options)


def describe(loaded: Loaded) -> Iterator[tuple[str, str, str]]:
    """(name, effective value with secrets redacted, origin) of every setting."""
    for name, field in Settings.model_fields.items():
        value = getattr(loaded.settings, name)
        yield _about(field)["names"][0], _shown(value), loaded.origins.get(name, "default")


def markdown() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Generated by `python serve_hathora.py settings --markdown`; do not edit.",
        "",
        "Command line over environment over `DEPLOYMENT_CONFIG_JSON` over default. Every name works"
        ' in all three: `TP_SIZE=2`, `--tp-size 2`, `{"tp_size": 2}`. Two names of one setting '
        "with different values stop the start. `python serve_hathora.py settings` prints what is "
        "in force and where it came from.",
    ]
    section = None
    for field in Settings.model_fields.values():
        about = _about(field)
        if about["section"] != section:
            section = about["section"]
            lines += [
                "",
                f"## {section}",
                "",
                "| name | default | meaning |",
                "| --- | --- | --- |",
            ]
        names = ", ".join(f"`{name}`" for name in about["names"])
        default = _shown(field.default)
        default = f"`{default}`" if default else ""
        lines.append(f"| {names} | {default} | {field.description} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


_SECRET = re.compile("key|token$|secret|password", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"(--[a-z-]*(?:key|token|secret|password)[= ]+)\S+", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def hidden(text: str) -> str:
    """A command line or an address without the secrets that may be in it."""
    return _USERINFO.sub("***", _SECRET_FLAG.sub(r"\1***", text))


def redacted(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without what is secret by its name."""
    return {name: "***" if _SECRET.search(name) else value for name, value in options.items()}


def _about(field: FieldInfo) -> dict[str, Any]:
    return cast("dict[str, Any]", field.json_schema_extra)


def _flag(name: str) -> str:
    return name.lower().replace("_", "-")


def _deployment_config(environ: Mapping[str, str]) -> dict[str, Any]:
    text = environ.get(DEPLOYMENT_CONFIG, "").strip()
    if not text:
        return {}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{DEPLOYMENT_CONFIG} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{DEPLOYMENT_CONFIG} must be a JSON object")
    found: dict[str, Any] = {}
    for key, value in config.items():
        # `TP_SIZE`, `tp_size` and `tp-size` are the same name.
        name = key.lower().replace("-", "_")
        if name in found:
            raise ConfigError(f"{DEPLOYMENT_CONFIG} has {name} twice; keep one")
        if value is not None:
            found[name] = value
    return found


def _read_layer(given: Mapping[str, Any], shape: str, *, lower: bool, where: str = "") -> _Layer:
    """Field -> (value, origin), for every field that the layer gives under any of its names."""
    found: _Layer = {}
    for field_name, field in Settings.model_fields.items():
        about = _about(field)
        for name in _names(field_name):
            spellings = (name.lower(), _flag(name)) if lower else (name,)
            for key in dict.fromkeys(spellings):
                value = given.get(key)
                if value is None or (value == "" and not about["empty"]):
                    continue
                origin = where + shape.format(key)
                if field_name in found and str(found[field_name][0]) != str(value):
                    raise ConfigError(
                        f"{found[field_name][1]} and {origin} are the same setting with different "
                        "values; keep one"
                    )
                found.setdefault(field_name, (value, origin))
    return found


def _merge_options(below: object, above: object) -> object:
    try:
        merged = [_decoded(options) for options in (below, above)]
    except ValueError as error:
        raise ConfigError(f"ENGINE_ARGS: {error}") from None
    return {k: v for options in merged if isinstance(options, dict) for k, v in options.items()}


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    field = str(first["loc"][0])
    return f"{origins.get(field, field)}: {message[0].lower()}{message[1:]}"


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case tuple():
            return ",".join(str(part) for part in value)
        case str():
            return hidden(value)
        case bool():
            return str(value).lower()
        case dict():
            return json.dumps(redacted(value)) if value else ""
        case _:
            return str(value)
