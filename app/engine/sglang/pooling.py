"""How a model folder wants its embeddings pooled. Refused at start if the engine cannot do it.

Source: the files that sentence-transformers 6.2 writes. `modules.json` lists the steps after the
tokenizer; the Pooling step's folder (`1_Pooling/config.json`) says how the tokens' vectors become
one. What SGLang 0.5.23 pools by itself is fixed for each architecture (`Pooler(...)` in
`srt/models`). Imports neither SGLang nor torch, because it is also used before they are imported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.errors import ConfigError

Mode = Literal["mean", "cls", "last"]

_MODES: dict[str, Mode] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The file's form before sentence-transformers 5.4; since then it has `pooling_mode`."""

_ANY_POOLING = {"BertModel", "Contriever", "XLMRobertaModel"}
"""Replaced by our classes (`models/bert.py`), which pool as the model folder asks."""

_EMBEDS_ONLY: dict[str, Mode] = {
    "LlamaEmbeddingModel": "last",
    "Lfm2BidirectionalModel": "cls",
    "MistralModel": "last",
    "Qwen3Model": "last",
}
_ALSO_GENERATES: dict[str, Mode] = {
    "LlamaForCausalLM": "last",
    "MistralForCausalLM": "last",
    "Qwen2ForCausalLM": "last",
    "Qwen3ForCausalLM": "last",
}
_FIXED_POOLING = _EMBEDS_ONLY | _ALSO_GENERATES


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the engine makes one vector out of a text's tokens, and which vectors it can make."""

    mode: Mode
    size: int
    """Numbers in one vector."""
    max_tokens: int | None
    """The longest input that the model was trained for; None if only its context bounds it."""
    matryoshka: bool
    """Whether the first numbers of a vector are a shorter embedding by themselves."""
    dimensions: tuple[int, ...]
    """The shorter sizes that a matryoshka model names; if it names none, any will do."""

    def allows(self, dimensions: int) -> bool:
        """Whether a request may want vectors of this size; `size` is no cut, and always allowed."""
        if dimensions == self.size:
            return True
        if not self.matryoshka or not 0 < dimensions < self.size:
            return False
        return not self.dimensions or dimensions in self.dimensions


def is_embedding_model(model_path: Path) -> bool:
    """Whether the folder holds a model made for embeddings.

    True by its architecture or by the files of sentence-transformers beside it, as for
    Qwen3-Embedding, which is built like a language model. False if they cannot be read.
    """
    try:
        architecture = _architecture(_read(model_path / "config.json") or {})
        kinds = [kind for kind, _ in _steps(model_path)]
    except ConfigError:
        return False
    return architecture in _ANY_POOLING | _EMBEDS_ONLY.keys() or "Pooling" in kinds


def check(model_path: Path) -> Pooling:
    """How the engine pools this embedding model's tokens: as the model folder asks.

    Raises ConfigError with one line if the engine cannot do that.
    """
    config = _read(model_path / "config.json")
    if config is None:
        raise ConfigError(f"MODEL_PATH: {model_path} has no config.json")
    architecture = _architecture(config)
    if architecture not in _ANY_POOLING | _FIXED_POOLING.keys():
        known = ", ".join(sorted(_ANY_POOLING | _FIXED_POOLING.keys()))
        raise ConfigError(
            f"MODEL_PATH: embeddings of the architecture {architecture or 'null'} are not served; "
            f"those of {known} are"
        )
    # sentence-transformers takes the mean if an encoder names no pooling.
    pools = _FIXED_POOLING.get(architecture)
    mode = _asked_mode(model_path) or pools or "mean"
    if pools not in (None, mode):
        raise ConfigError(
            f"MODEL_PATH: the model asks for {mode} pooling, the engine pools {pools} "
            f"for {architecture}"
        )
    return Pooling(
        mode=mode,
        size=_number(config, "hidden_size") or 0,
        max_tokens=_max_tokens(model_path, config),
        matryoshka=bool(config.get("matryoshka_dimensions") or config.get("is_matryoshka")),
        dimensions=tuple(config.get("matryoshka_dimensions") or ()),
    )


def _asked_mode(model_path: Path) -> Mode | None:
    """The pooling that the folder asks for; None if it names none."""
    steps = _steps(model_path)
    if not steps:
        return None
    kinds = [kind for kind, _ in steps]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ConfigError(
            f"MODEL_PATH: {model_path / 'modules.json'} asks for {', '.join(kinds)}; "
            "the engine does Transformer, Pooling, Normalize"
        )
    file = steps[1][1] / "config.json"
    config = _read(file)
    if config is None:
        raise ConfigError(f"MODEL_PATH: the model asks for pooling, but there is no {file}")
    named = config.get("pooling_mode") or [m for flag, m in _FLAGS.items() if config.get(flag)]
    modes = [named] if isinstance(named, str) else list(named) or ["mean"]
    if len(modes) > 1 or modes[0] not in _MODES:
        raise ConfigError(
            f"MODEL_PATH: {file} asks for {' + '.join(map(str, modes))} pooling; "
            f"the engine can do one of {', '.join(_MODES)}"
        )
    return _MODES[modes[0]]


def _steps(model_path: Path) -> list[tuple[str, Path]]:
    """The kind and the folder of each step from text to vector; none if the folder names none."""
    listed = _read(model_path / "modules.json", list)
    if listed is None:
        pooling = model_path / "1_Pooling"
        return [("Transformer", model_path), ("Pooling", pooling)] if pooling.exists() else []
    # The module's dotted name has moved between releases, its last part has not.
    return [
        (str(step.get("type")).rpartition(".")[2], model_path / str(step.get("path")))
        for step in listed
        if isinstance(step, dict)
    ]


def _max_tokens(model_path: Path, config: dict[str, Any]) -> int | None:
    bounds = [_number(_read(model_path / "sentence_bert_config.json") or {}, "max_seq_length")]
    if _architecture(config) == "XLMRobertaModel":
        # Its positions count from the padding's id + 1. SGLang does not know that, takes two tokens
        # more than there are positions, and its scheduler dies of them.
        positions, padding = _number(config, "max_position_embeddings"), config.get("pad_token_id")
        if positions is not None and isinstance(padding, int):
            bounds.append(positions - padding - 1)
    return min((bound for bound in bounds if bound is not None), default=None)


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures") or [""]
    return str(names[0])


def _number(config: dict[str, Any], name: str) -> int | None:
    value = config.get(name)
    return value if isinstance(value, int) and value > 0 else None


_SHAPES: dict[type, str] = {dict: "object", list: "array"}


def _read(file: Path, shape: type = dict) -> Any:
    """The file's content; None if there is no such file. Raises ConfigError if it is broken."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"MODEL_PATH: {file} cannot be read: {error}") from None
    if not isinstance(content, shape):
        raise ConfigError(f"MODEL_PATH: {file} should hold a JSON {_SHAPES[shape]}")
    return content
