"""Settings that cannot be honoured, that contradict each other, or that lack another one.

A single value's limits stand at its declaration; what is here looks at several, or explains.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from app.errors import ConfigError
from app.settings.catalogue import DECLARATIONS, Settings

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
    _check_that_it_can_be_honoured(settings)
    _check_combinations(settings)
    _check_keys(settings, origins)
    _check_store(settings)
    _check_files(settings)
    if not supervised:
        _check_network(settings, origins)
    if settings.demo and "model_path" in origins:
        raise ConfigError(f"{origins['demo']} and {origins['model_path']} exclude each other")


def is_open(settings: Settings) -> bool:
    """True if other machines may use the API without a key."""
    return not settings.api_key and not _is_loopback(settings.host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_that_it_can_be_honoured(settings: Settings) -> None:
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
    if settings.enable_lora or (settings.lora_modules or "[]").strip() != "[]":
        raise ConfigError(
            "ENABLE_LORA and LORA_MODULES cannot be honoured: adapters are not served; merge "
            "the adapter into the model, or remove them"
        )
    if settings.openai_response_role not in (None, "assistant"):
        raise ConfigError(
            "OPENAI_RESPONSE_ROLE cannot be honoured: OpenAI's clients accept no other role "
            "than assistant; remove it"
        )


def _check_combinations(settings: Settings) -> None:
    if settings.custom_chat_template and settings.chat_template:
        raise ConfigError("CUSTOM_CHAT_TEMPLATE and CHAT_TEMPLATE exclude each other")
    if settings.node_rank >= settings.nnodes:
        raise ConfigError(f"NODE_RANK must be below NNODES, which is {settings.nnodes}")
    if settings.nnodes > 1 and not settings.dist_init_addr:
        raise ConfigError("NNODES needs DIST_INIT_ADDR, the host:port of node 0")
    if settings.min_batch_size > settings.max_batch_size:
        raise ConfigError("DEFAULT_MIN_BATCH_SIZE must not be over DEFAULT_BATCH_SIZE")


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
