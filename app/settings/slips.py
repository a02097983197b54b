"""Names that are nearly a setting's: warned of, where nothing else owns them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.settings import sources, translations, vllm
from app.settings.spelling import hint, nearest

_NEAR = 0.85
_OTHERS = re.compile(
    r"(SGLANG|VLLM|HF|HUGGINGFACE|TRANSFORMERS|CUDA|CUDNN|CUBLAS|NCCL|NVIDIA|NVSHMEM|ROCM|HIP"
    r"|TORCH|PYTORCH|TORCHINDUCTOR|TRITON|FLASHINFER|DG|UCX|GLOO|OMP|MKL|KMP|OPENBLAS|MALLOC"
    r"|PROMETHEUS|OTEL|AWS|AZURE|GOOGLE|GCLOUD|CLOUDSDK|OPENAI|ANTHROPIC|WANDB|MLFLOW|KUBERNETES"
    r"|RUNPOD|DOCKER|COMPOSE|PYTHON|PIP|UV|NPM|NODE|XDG|LC|SSH|GPG|GIT|GITHUB|CI|PG|POSTGRES|REDIS"
    r")_.*|.*_(SERVICE_HOST|SERVICE_PORT\w*|PORT_\d+_\w+)"
    r"|SSL_CERT_(FILE|DIR)|(NO|FORCE)_COLOR"
)
"""Variables of other programs, by their prefix, what Kubernetes sets for each service, and those
that OpenSSL and terminals know."""


def in_environment(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that were meant for this server, as far as one can tell."""
    known = sources.names()
    owned = {*known, *translations.GONE, *vllm.REFUSED}
    owned |= sources.names_of_files([each.field for each in known.values()])
    ours = [name for name in known if not _OTHERS.fullmatch(name)]
    for name in sorted(environ):
        if name in owned or not name.isupper() or _OTHERS.fullmatch(name) or not environ[name]:
            continue
        if (near := nearest(name, ours, cutoff=_NEAR)) is not None:
            yield f"{name} is no setting and has no effect; did you mean {near}?"


def in_env_file(source: sources.Source) -> Iterator[str]:
    """Names of a `.env` file that were meant for this server: in any case, dashes, quotes."""
    settings = sources.names()
    known = {*settings, *sources.names_of_files(sources.SECRETS)}
    ours = [name for name in settings if not _OTHERS.fullmatch(name)]
    for name in source.unknown:
        word = sources.plain(sources.shown(name))
        near: str | None = word
        if word not in known:
            is_owned = word in translations.GONE or word in vllm.REFUSED or _OTHERS.fullmatch(word)
            near = None if is_owned else nearest(word, ours, cutoff=_NEAR)
        if near is not None:
            line = source.shape.format(sources.shown(name))
            yield f"{line} is no setting and has no effect; did you mean {near}?"


def in_config(config: Mapping[str, Any], origin: str) -> Iterator[str]:
    """Names in a JSON object that nothing here has."""
    known = {*sources.names(), *translations.GONE, *vllm.REFUSED}
    for key in sorted(config):
        if key.upper().replace("-", "_") not in known:
            names = [name.lower() for name in sources.names()]
            yield f"{origin}: nothing here is called {key[:60]}{hint(key, names)}"
