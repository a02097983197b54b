"""The models that are measured: the demo model, and a tiny random one that is made here.

The tiny model has half a million weights in one layer, so that the engine costs as little as
possible and most of the cost is serving. Its text is meaningless but readable: the rows of the head
that belong to special tokens and to parts of UTF-8 characters are zero, so greedy decoding never
chooses them, every token is text at once, and no answer ends early.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from app.engine import demo

RECIPE = 2
"""Part of the folder's name: raise it when the model changes."""

END_ID = 2
_VOCABULARY = 1536
_HIDDEN = 128
_HEAD = 64
_INNER = 256
_CONTEXT = 4096
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MARKERS = ("<tool_call>", "</tool_call>")

# Hermes: the most common format of tool calls; each server parses it with its own parser.
_TEMPLATE = """\
{%- if tools %}<|im_start|>system
Tools:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
Call one so: <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def find(name: str) -> Path:
    """Return the folder of `tiny` or `demo`, made if it does not exist: a minute for `demo`."""
    folder = demo.default_cache()
    if name == "demo":
        return demo.ensure(folder, say=print)
    tiny = folder / f"bench-tiny-{RECIPE}"
    if not tiny.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        make(tiny)
    return tiny


def prompts(model: Path, count: int, tokens: int, *, seed: int) -> list[str]:
    """Return distinct texts of exactly `tokens` tokens each, made of words of one token."""
    drawn, words = random.Random(seed), _words(model)  # noqa: S311
    return ["".join(drawn.choices(words, k=tokens)) for _ in range(count)]


@cache
def _words(model: Path) -> list[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    words = sorted(token for token in tokenizer.get_vocab() if token.startswith("Ġ"))
    texts = [" " + word[1:] for word in words if word[1:].isascii() and word[1:].islower()]
    return [text for text in texts if len(tokenizer.encode(text).ids) == 1]


def make(tiny: Path) -> None:
    fresh = Path(tempfile.mkdtemp(prefix="bench-", dir=tiny.parent))
    try:
        readable = _write_tokenizer(fresh)
        _write_weights(fresh, readable)
        fresh.rename(tiny)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_tokenizer(folder: Path) -> list[int]:
    """Returns the ids of tokens that are plain text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - len(_MARKERS),
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in _MARKERS])
    if (size := tokenizer.get_vocab_size()) != _VOCABULARY:
        raise ValueError(f"the tiny model's vocabulary came out as {size} tokens")
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": _CONTEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
    first_text = len(_SPECIAL)
    decoded = ((id, tokenizer.decode([id])) for id in range(first_text, _VOCABULARY))
    return [id for id, text in decoded if text.isprintable() and text not in _MARKERS]


def _corpus() -> Iterator[str]:
    drawn = random.Random(RECIPE)  # noqa: S311
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    words = ["".join(drawn.choices(syllables, k=drawn.choice((1, 2, 2, 3)))) for _ in range(900)]
    for _ in range(2000):
        yield " ".join(drawn.choices(words, k=20)) + "."


def _write_weights(folder: Path, readable: list[int]) -> None:
    import torch
    from safetensors.torch import save_file

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": _VOCABULARY,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": _HEAD,
        "hidden_act": "silu",
        "max_position_embeddings": _CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": END_ID,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    source = torch.Generator().manual_seed(RECIPE)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=source) * columns**-0.5

    layer, ones = "model.layers.0.", torch.ones(_HIDDEN)
    weights = {
        "model.embed_tokens.weight": matrix(_VOCABULARY, _HIDDEN),
        layer + "self_attn.q_proj.weight": matrix(_HEAD, _HIDDEN),
        layer + "self_attn.k_proj.weight": matrix(_HEAD, _HIDDEN),
        layer + "self_attn.v_proj.weight": matrix(_HEAD, _HIDDEN),
        layer + "self_attn.o_proj.weight": matrix(_HIDDEN, _HEAD),
        layer + "mlp.gate_proj.weight": matrix(_INNER, _HIDDEN),
        layer + "mlp.up_proj.weight": matrix(_INNER, _HIDDEN),
        layer + "mlp.down_proj.weight": matrix(_HIDDEN, _INNER),
        layer + "input_layernorm.weight": ones,
        layer + "post_attention_layernorm.weight": ones.clone(),
        "model.norm.weight": ones.clone(),
    }
    head = matrix(_VOCABULARY, _HIDDEN)
    unreadable = torch.ones(_VOCABULARY, dtype=torch.bool)
    unreadable[readable] = False
    head[unreadable] = 0
    weights["lm_head.weight"] = head
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
