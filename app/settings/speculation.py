"""vLLM's settings of speculative decoding in SGLang's words.

vLLM counts the tokens that a draft adds; SGLang counts the steps of the draft model, its branches
in each step, and the tokens with the root in them. With one branch they are the same drafts.

Source: vllm/config/speculative.py of vLLM 0.27.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from app.errors import ConfigError

Values: TypeAlias = Mapping[str, Any]
"""Field -> the setting's value."""
Origins: TypeAlias = Mapping[str, str]
Translation: TypeAlias = tuple[dict[str, Any], str]
"""Fields to change, and the warning; without text there is none."""

_ALGORITHMS = {
    "ngram": "NGRAM",
    "[ngram]": "NGRAM",
    "eagle": "EAGLE",
    "eagle3": "EAGLE3",
    "draft_model": "STANDALONE",
    "mtp": "NEXTN",
}
"""vLLM's method -> SGLang's algorithm. Each model's own `..._mtp` is `mtp`, too."""
_OURS = (
    "speculative_algorithm",
    "speculative_model",
    "speculative_num_steps",
    "speculative_eagle_topk",
    "num_speculative_tokens",
    "speculative_method",
)
_READ = {"method", "model", "num_speculative_tokens", "revision", "quantization"}
_ENGINE_OPTIONS = {
    "revision": "speculative_draft_model_revision",
    "quantization": "speculative_draft_model_quantization",
}
_WITHOUT_EFFECT = {
    "draft_tensor_parallel_size",
    "disable_by_batch_size",
    "disable_padded_drafter_batch",
    "enforce_eager",
    "max_model_len",
    "prompt_lookup_max",
    "prompt_lookup_min",
}
"""They change how fast drafts are, and no answer."""


def vllms_drafts(values: Values, origins: Origins) -> Translation | None:
    """The rule of SPECULATIVE_CONFIG, and of SPECULATIVE_METHOD."""
    if not (config := values["speculative_config"]):
        return _method_alone(values, origins)
    origin = origins["speculative_config"]
    for field in _OURS:
        if field in origins:
            raise ConfigError(f"{origin} and {origins[field]} are the same setting; keep one")
    if unknown := sorted(config.keys() - _READ - _WITHOUT_EFFECT):
        raise ConfigError(f"{origin}: {unknown[0]!r} cannot be honoured; remove it")
    model, count = config.get("model"), config.get("num_speculative_tokens")
    if model is not None and not isinstance(model, str):
        raise ConfigError(f"{origin}: model must be a text")
    if count is not None and (type(count) is not int or not 1 <= count <= 128):
        raise ConfigError(f"{origin}: num_speculative_tokens must be an integer from 1 to 128")
    algorithm = _algorithm(config.get("method"), model, origin)
    change: dict[str, Any] = {"speculative_algorithm": algorithm}
    if algorithm == "NGRAM":
        change |= {} if count is None else {"num_speculative_tokens": count}
    else:
        change |= {"speculative_model": model} | _steps(count)
    engine_args = {
        option: config[name] for name, option in _ENGINE_OPTIONS.items() if config.get(name)
    }
    if engine_args:
        change["engine_args"] = engine_args | values["engine_args"]
    return change, _said(origin, change | engine_args, sorted(config.keys() & _WITHOUT_EFFECT))


def _method_alone(values: Values, origins: Origins) -> Translation | None:
    if (method := values["speculative_method"]) is None:
        return None
    origin = origins["speculative_method"]
    if values["speculative_algorithm"] is not None:
        raise ConfigError(
            f"{origin} and {origins['speculative_algorithm']} are the same setting; keep one"
        )
    algorithm = _algorithm(method, values["speculative_model"], origin)
    return {"speculative_algorithm": algorithm}, (
        f"{origin}={method} is taken as SPECULATIVE_ALGORITHM={algorithm}"
    )


def _algorithm(method: object, model: str | None, origin: str) -> str:
    """As vLLM finds it: by the method, else by the name of the draft model."""
    name = str(method or "").lower()
    if not name:
        name = (model or "").lower()
        if name not in ("ngram", "[ngram]"):
            name = "eagle3" if "eagle3" in name else "eagle" if "eagle-" in name else "draft_model"
    if name.endswith("_mtp"):
        name = "mtp"
    if (algorithm := _ALGORITHMS.get(name)) is None:
        known = ", ".join(each for each in _ALGORITHMS if each.isalnum() or "_" in each)
        raise ConfigError(
            f"{origin}: SGLang has no method {name[:40]!r}; it has {known}, and more by "
            "SPECULATIVE_ALGORITHM"
        )
    if model is None and algorithm not in ("NGRAM", "NEXTN"):
        raise ConfigError(f"{origin}: the method {name!r} needs a draft model")
    return algorithm


def drafts(values: Values, origins: Origins) -> Translation | None:
    """The rule of a draft model and vLLM's number of tokens."""
    model, tokens = values["speculative_model"], values["num_speculative_tokens"]
    algorithm = values["speculative_algorithm"]
    if model is None and algorithm != "NEXTN":
        return None
    if model is not None and model.strip("[]").lower() == "ngram":
        return {"speculative_model": None, "speculative_algorithm": "NGRAM"}, ""
    if algorithm == "NGRAM":
        return {"speculative_model": None}, f"{origins['speculative_model']}: no effect with NGRAM"
    change: dict[str, Any] = {"speculative_algorithm": algorithm or "STANDALONE"}
    has_sglangs = values["speculative_num_steps"] or values["speculative_eagle_topk"]
    if tokens is None or has_sglangs or "DRAFT_TOKENS" in origins["num_speculative_tokens"].upper():
        return change, ""
    steps = _steps(tokens)
    return change | steps, (
        f"{origins['num_speculative_tokens']}={tokens} is taken as {_written(steps)}"
    )


def _steps(count: int | None) -> dict[str, Any]:
    """SGLang wants all three or none."""
    if count is None:
        return {}
    return {
        "speculative_num_steps": count,
        "speculative_eagle_topk": 1,
        "num_speculative_tokens": count + 1,
    }


_NAMES = {
    "speculative_model": "SPECULATIVE_DRAFT_MODEL_PATH",
    "num_speculative_tokens": "SPECULATIVE_NUM_DRAFT_TOKENS",
}


def _written(change: Mapping[str, Any]) -> str:
    return " ".join(
        f"{_NAMES.get(field, field.upper())}={value}"
        for field, value in change.items()
        if field != "engine_args" and value is not None
    )


def _said(origin: str, change: Mapping[str, Any], idle: list[str]) -> str:
    text = f"{origin} is taken as {_written(change)}"
    return f"{text}; without effect in it: {', '.join(idle)}" if idle else text
