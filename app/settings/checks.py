"""Settings that cannot be honoured, that contradict each other, or that lack another one.

A single value's limits stand at its declaration; what is here looks at several, or explains.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr

from app.errors import ConfigError
from app.settings.catalogue import ADAPTER_NAME, DECLARATIONS, GENERIC_NAMES, Settings

_DATABASE_PARAMETERS = {
    "sslmode", "ssl", "channel_binding", "application_name", "connect_timeout",
}  # fmt: skip
"""Of a PostgreSQL URL."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_BUCKETS = ("s3", "gs", "az")
_NETWORK = ("hathora_hostname", "hathora_default_port", "hathora_region", "gcp_key")


def refuse(settings: Settings, origins: Mapping[str, str], *, supervised: bool) -> None:
    """Raise ConfigError for the first thing that is wrong.

    `supervised`: the supervisor has checked the network's settings and keeps the key.
    """
    _check_that_it_can_be_honoured(settings, origins)
    _check_combinations(settings)
    _check_default_sampling(settings, origins)
    _check_health_path(settings, origins)
    _check_keys(settings, origins)
    _check_port(settings)
    _check_traces(settings, origins)
    _check_store(settings)
    _check_files(settings)
    if not supervised:
        _check_network(settings, origins)
    if settings.demo and "model_path" in origins:
        raise ConfigError(f"{origins['demo']} and {origins['model_path']} exclude each other")


def is_open(settings: Settings) -> bool:
    """True if other machines may use the API without a key."""
    if settings.uds is not None or settings.ssl_ca_certs is not None:
        return False
    return not settings.api_key and not _is_loopback(settings.host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_that_it_can_be_honoured(settings: Settings, origins: Mapping[str, str]) -> None:
    if settings.skip_tokenizer_init:
        raise ConfigError(
            "SKIP_TOKENIZER_INIT=true cannot be honoured: this server tokenises every prompt; "
            "remove it"
        )
    if settings.quantization == "squeezellm":
        raise ConfigError(
            "QUANTIZATION=squeezellm is gone from SGLang; take a checkpoint in another format "
            "(awq, gptq, fp8)"
        )
    if settings.openai_response_role not in (None, "assistant"):
        raise ConfigError(
            f"{origins['openai_response_role']} cannot be honoured: OpenAI's clients accept no "
            "other role than assistant; remove it"
        )


def _check_combinations(settings: Settings) -> None:
    if settings.custom_chat_template and settings.chat_template:
        raise ConfigError("CUSTOM_CHAT_TEMPLATE and CHAT_TEMPLATE exclude each other")
    if settings.node_rank >= settings.nnodes:
        raise ConfigError(f"NODE_RANK must be below NNODES, which is {settings.nnodes}")
    if settings.nnodes > 1 and not settings.dist_init_addr:
        raise ConfigError("NNODES needs DIST_INIT_ADDR, the host:port of node 0")
    if settings.serves_adapters:
        _check_adapters(settings)
    if settings.min_batch_size > settings.max_batch_size:
        raise ConfigError("DEFAULT_MIN_BATCH_SIZE must not be over DEFAULT_BATCH_SIZE")


def _check_adapters(settings: Settings) -> None:
    if settings.tokenizer_workers > 1 or settings.nnodes > 1:
        several = "NNODES" if settings.nnodes > 1 else "TOKENIZER_WORKERS"
        raise ConfigError(f"{several} must be 1 where LoRA adapters are served (ENABLE_LORA)")
    if int(settings.engine_args.get("pp_size") or 1) > 1:
        raise ConfigError("ENGINE_ARGS: pp_size must be 1 where LoRA adapters are served")
    if settings.engine_args.get("enable_dp_attention"):
        raise ConfigError("ENGINE_ARGS: enable_dp_attention and LoRA adapters exclude each other")
    if both := settings.lora_modules.keys() & settings.lora_paths.keys():
        raise ConfigError(f"LORA_PATHS: {min(both)!r} is in LORA_MODULES, too")
    for name in settings.adapters:
        if not ADAPTER_NAME.fullmatch(name):
            raise ConfigError(
                f"LORA_MODULES: {name[:200]!r} is no name: it must have 1 to 200 letters, digits "
                "and '._:/-', and begin with a letter or a digit"
            )
        if name in (*settings.names, *GENERIC_NAMES):
            raise ConfigError(f"LORA_MODULES: {name!r} is a name of the model itself")
    if len(settings.adapters) > settings.most_adapters:
        raise ConfigError(
            f"MAX_CPU_LORAS must be at least {len(settings.adapters)}, the adapters of LORA_MODULES"
        )


_SAMPLING = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 2),
}


def _check_default_sampling(settings: Settings, origins: Mapping[str, str]) -> None:
    for name, value in settings.default_sampling.items():
        origin = origins["default_sampling"]
        if name not in _SAMPLING:
            hint = (
                "; MAX_TOTAL_TOKENS bounds prompt and answer together"
                if name in ("max_new_tokens", "max_tokens")
                else ""
            )
            raise ConfigError(
                f"{origin}: {name!r} cannot be honoured, only {', '.join(_SAMPLING)}{hint}"
            )
        least, most = _SAMPLING[name]
        numbers = (int,) if name == "top_k" else (int, float)
        if type(value) not in numbers or not least <= value <= most:
            raise ConfigError(f"{origin}: {name} must be a number from {least:,} to {most:,}")


_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*=[ !#-+\--:<-\[\]-~\t]*")
"""Of the list in a variable, as OpenTelemetry takes it: `name=value`."""


def _check_traces(settings: Settings, origins: Mapping[str, str]) -> None:
    if (url := settings.traces_endpoint) is None:
        return
    field = (
        "otel_exporter_otlp_traces_endpoint"
        if settings.otel_exporter_otlp_traces_endpoint
        else "otel_exporter_otlp_endpoint"
    )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{origins[field]}: must be http(s)://HOST:PORT")
    _check_headers_for_collector(settings, origins)
    field = (
        "otel_exporter_otlp_traces_protocol"
        if settings.otel_exporter_otlp_traces_protocol
        else "otel_exporter_otlp_protocol"
    )
    protocol = getattr(settings, field)
    if protocol is not None and protocol != "http/protobuf":
        raise ConfigError(
            f"{origins[field]}={protocol[:20]!r} is not spoken, only "
            "http/protobuf, for which collectors listen on port 4318"
        )


def _check_headers_for_collector(settings: Settings, origins: Mapping[str, str]) -> None:
    """OpenTelemetry would log what it cannot read, and it may be a key."""
    for field in ("otel_exporter_otlp_headers", "otel_exporter_otlp_traces_headers"):
        headers = getattr(settings, field) or SecretStr("")
        for pair in headers.get_secret_value().split(","):
            pair = pair.strip(" \t")
            if pair and not (_HEADER.fullmatch(pair) and unquote(pair).isprintable()):
                raise ConfigError(
                    f"{origins[field]}: must be name=value,name=value; in a value, "
                    'percent-encode what is not ASCII, and any of ",;\\'
                )


_SOCKET_PATH_BYTES = 107
"""The kernel takes no longer one."""


def _check_port(settings: Settings) -> None:
    """Unix sockets and TLS. What the files of certificates hold, web/tls.py says."""
    if settings.ssl_certfile is None:
        for field in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"):
            if getattr(settings, field) is not None:
                raise ConfigError(f"{field.upper()} needs SSL_CERTFILE, the server's certificate")
    if settings.uds is None:
        return
    if settings.ssl_certfile is not None:
        raise ConfigError(
            "UDS and SSL_CERTFILE exclude each other: a unix socket speaks plain HTTP"
        )
    if settings.networked:
        raise ConfigError("UDS: the load balancer of Hathora networking needs a PORT; remove it")
    if len(settings.uds.encode()) > _SOCKET_PATH_BYTES:
        raise ConfigError(f"UDS: a socket's path has at most {_SOCKET_PATH_BYTES} bytes")
    if not re.fullmatch("0?[0-7]{3}", settings.uds_mode):
        raise ConfigError(
            f"UDS_MODE: must be three octal digits such as 660, not {settings.uds_mode[:20]!r}"
        )


_EARLY = ("/", "/livez", "/metrics", "/docs", "/openapi.json")


def _check_health_path(settings: Settings, origins: Mapping[str, str]) -> None:
    path = settings.health_check_path
    if path is None:
        return
    origin = origins["health_check_path"]
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?|/", path):
        raise ConfigError(f"{origin}: must be a path such as /ping")
    if path.rstrip("/") in _EARLY or path in _EARLY:
        raise ConfigError(
            f"{origin}={path} would say that the server is ready before the model is; take /ping"
        )


def _check_store(settings: Settings) -> None:
    url = (settings.store_url or "").strip()
    if url.lower() == "memory" and settings.tokenizer_workers > 1:
        raise ConfigError("STORE_URL: TOKENIZER_WORKERS do not share a store in memory")
    if not url or url.lower() in ("memory", "off"):
        return
    parts = urlsplit(url)
    kind = parts.scheme.partition("+")[0]
    right = bool(parts.hostname) if kind in ("postgresql", "postgres") else not parts.netloc
    if kind not in ("sqlite", "postgresql", "postgres") or not right:
        raise ConfigError(
            "STORE_URL: must be sqlite:////ABSOLUTE/PATH, postgresql://USER:PASSWORD@HOST/NAME, "
            "memory or off"
        )
    if kind != "sqlite" and (unknown := parse_qs(parts.query).keys() - _DATABASE_PARAMETERS):
        raise ConfigError(f"STORE_URL: the parameter {min(unknown)[:40]!r} is not known here")


def _check_files(settings: Settings) -> None:
    path = settings.file_storage_path or ""
    if not _URL.match(path):
        return
    parts = urlsplit(path)
    is_folder = parts.scheme == "file"
    right = parts.path.startswith("/") and not parts.netloc if is_folder else bool(parts.netloc)
    if parts.scheme not in ("file", *_BUCKETS) or not right or parts.fragment:
        raise ConfigError(
            "FILE_STORAGE_PATH: must be a folder, file:///ABSOLUTE/PATH, s3://BUCKET/PREFIX, "
            "gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
        )
    if "@" in parts.netloc or parts.query:
        raise ConfigError(
            "FILE_STORAGE_PATH: credentials and options of a bucket are not part of its URL; set "
            "them in the variables of its vendor (AWS_..., GOOGLE_..., AZURE_...)"
        )
    if not is_folder and (settings.store_url or "").strip().lower() in ("memory", "off"):
        raise ConfigError(
            "FILE_STORAGE_PATH: which files are in a bucket is kept in the database of STORE_URL, "
            "which must be SQLite or PostgreSQL"
        )


def _check_keys(settings: Settings, origins: Mapping[str, str]) -> None:
    for field in ("api_key", "admin_api_key"):
        keys = getattr(settings, field) or [SecretStr("")]
        if field in origins and not all(key.get_secret_value() for key in keys):
            raise ConfigError(f"{origins[field]}: a blank key would leave the API open")
    if set(settings.api_key) & set(settings.admin_api_key):
        raise ConfigError(
            f"{origins['admin_api_key']} and {origins['api_key']} must not have a key in common"
        )


def _check_network(settings: Settings, origins: Mapping[str, str]) -> None:
    """Networking needs all of the four, or none is set."""
    missing = [field for field in _NETWORK if field not in origins]
    if settings.hathora_networking and missing and len(missing) < len(_NETWORK):
        present = ", ".join(origins[field] for field in _NETWORK if field in origins)
        wanted = ", ".join(DECLARATIONS[field].names[0] for field in missing)
        raise ConfigError(
            f"Hathora networking needs {wanted}, too, beside {present}; set them, or "
            "HATHORA_NETWORKING=false to serve without it"
        )
