"""SGLang's options by their names: those that it knows, and those that only its HTTP layer reads.

The engine runs here without SGLang's HTTP layer, so an option that nothing else reads would do
nothing. Each such is translated, or refused, or warned of, by its name, wherever it is set:
ENGINE_ARGS, `--engine-arg`, SGLANG_EXTRA_ARGS, SGLANG_SERVER_CMD.

Of SGLang 0.5.23; `tests/engine/test_sglang_options.py` holds both lists to the installed release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.errors import ConfigError
from app.settings.spelling import hint

RELEASE = "0.5.23"

_OTHER_SERVERS = "this server listens on HOST and PORT, and speaks HTTP/1.1"
_CLIENTS_CODE = "no template of a client's is run"

FIELDS = frozenset(Path(__file__).with_name("sglang_fields.txt").read_text().split())
"""Of `ServerArgs`: `.venv/bin/python -m tests.engine.sglang_fields` writes the file."""

SETTINGS: dict[str, str] = {
    "log_level_http": "LOG_LEVEL_HTTP",
    "stream_response_default_include_usage": "STREAM_USAGE",
    "served_model_name": "SERVED_MODEL_NAME",
    "ssl_certfile": "SSL_CERTFILE",
    "ssl_keyfile": "SSL_KEYFILE",
    "ssl_keyfile_password": "SSL_KEYFILE_PASSWORD",
    "ssl_ca_certs": "SSL_CA_CERTS",
}
"""Options that are a setting here -> its variable. They are taken as that setting."""

_REFUSED: dict[str, tuple[str, ...]] = {
    _OTHER_SERVERS: (
        "enable_http2",
        "grpc_mode",
        "grpc_port",
        "smg_grpc_mode",
        "smg_http_sidecar_port",
    ),
    "a request's chat_template_kwargs say it": ("default_chat_template_kwargs",),
    _CLIENTS_CODE: ("trust_request_chat_template",),
    "code of a client's would run in the engine": ("enable_custom_logit_processor",),
    "/generate with return_logprob gives token ids": ("return_input_ids", "return_output_ids"),
    "a prompt that is too long is refused: context_length_exceeded": ("allow_auto_truncate",),
    "this server runs no tools": ("tool_server",),
    "labels from a client's header would make series without a bound": (
        "tokenizer_metrics_allowed_custom_labels",
        "tokenizer_metrics_custom_labels_header",
    ),
    "no other program is started beside the server": ("sidecar", "sidecar_args"),
    "the engine's processes are those of this machine; docs/scaling.md": ("use_ray",),
    "the server ends once the file was run": ("debug_tensor_dump_input_file",),
    "the model's files are kept; remove them afterwards": ("delete_ckpt_after_loading",),
    "weights are those that were loaded": ("checkpoint_engine_wait_weights_before_ready",),
}
REFUSED: dict[str, str] = {name: why for why, names in _REFUSED.items() for name in names}
"""Options that cannot be honoured -> why."""

RESERVED: dict[str, str] = {
    "model_path": "set MODEL_PATH instead",
    "host": "set HOST instead",
    "port": "set PORT instead",
    "device": "set DEVICE instead",
    "api_key": "set API_KEY instead",
    "admin_api_key": "set ADMIN_API_KEY instead",
    "incremental_streaming_output": "this server needs it as it is",
    "skip_tokenizer_init": "this server tokenises every prompt",
    "is_embedding": "the model's files say whether it is one",
    "tokenizer_worker_num": "set TOKENIZER_WORKERS instead",
    "enable_metrics": "set ENABLE_METRICS instead",
    "grammar_backend": "this server has its own, on llguidance",
    "crash_dump_folder": "this server keeps no requests",
    "export_metrics_to_file": "set ENABLE_METRICS and scrape /metrics",
    "nnodes": "set NNODES instead",
    "enable_lora": "set ENABLE_LORA instead",
    "lora_paths": "set LORA_MODULES instead",
    "max_loras_per_batch": "set MAX_LORAS instead",
    "max_lora_rank": "set MAX_LORA_RANK instead",
    "max_loaded_loras": "set MAX_CPU_LORAS instead",
    "lora_target_modules": "set LORA_TARGET_MODULES instead",
    "node_rank": "set NODE_RANK instead",
}
"""Options that the server itself sets -> what to set instead."""

_NO_EFFECT: dict[str, tuple[str, ...]] = {
    "certificates are read again when their files change": ("enable_ssl_refresh",),
    "usage always says what the prefix cache had": ("enable_cache_report",),
    "one token is always generated before ready; WARMUP_ON_START does more": (
        "skip_server_warmup",
        "warmups",
    ),
    "paths are the client's, whatever a proxy has taken off them": ("fastapi_root_path",),
    "there is no gRPC server": ("grpc_response_timeout_secs", "grpc_worker_threads"),
    "this server speaks HTTP/1.1": (
        "http2_initial_connection_window_size",
        "http2_max_concurrent_streams",
    ),
    "TOKENIZER_WORKERS share the port": ("enable_http_worker_reuseport",),
    "STORE_URL says what is kept": ("enable_response_store",),
    "there are no sounds": ("asr_max_buffer_seconds", "asr_max_concurrent_sessions"),
    "a line for each request is always logged": ("uvicorn_access_log_exclude_prefixes",),
}
NO_EFFECT: dict[str, str] = {name: why for why, names in _NO_EFFECT.items() for name in names}
"""Options without effect -> why. Setting one logs a warning at the start."""

_NOTHING: tuple[Any, ...] = (None, False, "", [], {}, "false", "none", "None")


def check(options: Mapping[str, Any], origin: str, installed: str | None) -> None:
    """Raises ConfigError for the first option that SGLang does not have, that is the server's own
    to set, or that cannot be honoured.

    `installed`: SGLang's release; names of another one than this list's are left to its start.
    """
    for name, value in options.items():
        if name not in FIELDS and installed in (None, RELEASE):
            raise ConfigError(f"{origin}: SGLang has no option {name[:60]!r}{hint(name, FIELDS)}")
        if name in RESERVED:
            raise ConfigError(f"{origin}: {name} cannot be set here: {RESERVED[name]}")
        if name in REFUSED and value not in _NOTHING:
            raise ConfigError(
                f"{origin}: SGLang's {name} cannot be honoured: {REFUSED[name]}; remove it"
            )


def of_engine(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the engine itself reads."""
    elsewhere = SETTINGS.keys() | REFUSED.keys() | NO_EFFECT.keys()
    return {name: value for name, value in options.items() if name not in elsewhere}


def warnings(options: Mapping[str, Any], origin: str) -> Iterator[str]:
    """Of options without effect."""
    for name in sorted(options.keys() & NO_EFFECT.keys()):
        if options[name] not in _NOTHING:
            yield f"{origin}: {name}: no effect ({NO_EFFECT[name]})"
