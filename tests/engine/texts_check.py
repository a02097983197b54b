"""The server's texts against those of SGLang's own detokenizer, step by step, over tokenizers of
many families; run by test_texts.py in a process of its own, since importing SGLang changes the
process it is imported into."""

# ruff: noqa: E402, RUF001
from __future__ import annotations

import itertools
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

warnings.simplefilter("ignore")
os.environ["SGLANG_USE_PICKLE_IPC"] = "0"
sys.path.insert(0, str(Path(__file__).parents[2]))

from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.managers.detokenizer_manager import DetokenizerManager, LimitedCapacityDict
from sglang.srt.sampling.sampling_params import SamplingParams
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from app.engine.sglang.texts import Detokenizer

TEXT = (
    "Hello world, how are you? I'm fine - don't worry. 1,234.5 km/h\n\n  def f(x):\n\treturn x\n"
    "Grüße aus Łódź, naïve café. 你好，世界！今天天气很好。 こんにちは世界 안녕하세요 "
    '🌦️👩‍👩‍👧‍👦🇳🇴 Привет мир שלום عليكم नमस्ते <b>x</b> &amp; {"a": [1, 2]} ... !! \' s'
)
SPECIAL = ["<s>", "</s>", "<|im_end|>", "<think>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def fast(tokenizer: Tokenizer, *, clean_up: bool = False) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(["<tool_call>", "▁odd", "Łódź"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", clean_up_tokenization_spaces=clean_up
    )


def trained(
    model: Any, trainer: Any, before: Any, decoder: Any, normalizer: Any = None
) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = before, decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator([TEXT, *TEXT.split()], trainer)
    return tokenizer


def byte_level(split: str | None = None, *, clean_up: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2; with a pattern Llama 3, Qwen, DeepSeek, gpt-oss."""
    before: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    if split is not None:
        whole = pre_tokenizers.Split(Regex(split), "isolated")
        before = pre_tokenizers.Sequence([whole, before])
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made = trained(models.BPE(), trainer, before, decoders.ByteLevel())
    return fast(made, clean_up=clean_up)


def byte_fallback(*decoder: Any, prepend: bool) -> PreTrainedTokenizerFast:
    """Llama 2, Mistral, Gemma: what has no token is written in bytes."""
    steps = [normalizers.Prepend("▁")] if prepend else []
    trainer = trainers.BpeTrainer(
        vocab_size=520, special_tokens=["<unk>", *BYTES], limit_alphabet=60, show_progress=False
    )
    made = trained(
        models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True), trainer, None,
        decoders.Sequence(list(decoder)),
        normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")]),
    )  # fmt: skip
    return fast(made)


def unigram() -> PreTrainedTokenizerFast:
    """T5."""
    trainer = trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"],
                                      show_progress=False)  # fmt: skip
    return fast(
        trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace())
    )


def word_pieces(*, clean_up: bool) -> PreTrainedTokenizerFast:
    """BERT."""
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]"], show_progress=False
    )
    made = trained(
        models.WordPiece(unk_token="[UNK]"), trainer, pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(cleanup=clean_up),
    )  # fmt: skip
    return fast(made, clean_up=clean_up)


def suffixes() -> PreTrainedTokenizerFast:
    """OpenAI's first GPT, CLIP: the end of a word is marked."""
    trainer = trainers.BpeTrainer(
        vocab_size=300, end_of_word_suffix="</w>", special_tokens=["<unk>"], show_progress=False
    )
    model = models.BPE(unk_token="<unk>", end_of_word_suffix="</w>")
    return fast(trained(model, trainer, pre_tokenizers.Whitespace(), decoders.BPEDecoder("</w>")))


def words() -> PreTrainedTokenizerFast:
    """Without a decoder: blanks between tokens."""
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator([TEXT], trainer)
    return fast(made)


_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_REPLACE, _BYTES, _FUSE = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()
FAMILIES: dict[str, tuple[Callable[[], Any], bool]] = {
    "gpt2": (byte_level, True),
    "llama3": (lambda: byte_level(_LLAMA_3), True),
    "gpt2, cleaned up": (lambda: byte_level(clean_up=True), True),
    "llama2": (
        lambda: byte_fallback(_REPLACE, _BYTES, _FUSE, decoders.Strip(" ", 1, 0), prepend=True),
        True,
    ),
    "gemma": (lambda: byte_fallback(_REPLACE, _BYTES, _FUSE, prepend=False), True),
    "two blanks stripped": (
        lambda: byte_fallback(_REPLACE, _BYTES, _FUSE, decoders.Strip(" ", 2, 0), prepend=True),
        False,
    ),
    "t5": (unigram, False),
    "bert": (lambda: word_pieces(clean_up=False), False),
    "bert, cleaned up": (lambda: word_pieces(clean_up=True), False),
    "gpt1": (suffixes, False),
    "words": (words, False),
    "byt5, in Python": (ByT5Tokenizer, False),
}
"""Tokenizer, and whether the text of its tokens is kept."""


def theirs(tokenizer: Any) -> DetokenizerManager:
    """Without its sockets."""
    manager = DetokenizerManager.__new__(DetokenizerManager)
    manager.tokenizer = tokenizer
    manager.vocab_size = len(tokenizer)
    manager.decode_status = LimitedCapacityDict(capacity=100)
    manager.disable_tokenizer_batch_decode = False
    manager.is_tool_call_parser_gpt_oss = False
    manager.tool_close_token_ids = frozenset()
    return manager


@st.composite
def answers(draw: Any, tokenizer: Any) -> Any:
    """A prompt, the ids of each step, the sampling and the finish reason."""
    size = len(tokenizer)
    typical = tokenizer.encode(TEXT, add_special_tokens=False)
    start = st.integers(0, len(typical))
    part = st.builds(lambda at, length: typical[at : at + length], start, st.integers(0, 30))
    ids = st.lists(
        st.one_of(
            part,
            st.lists(st.integers(0, size - 1), max_size=6),
            st.lists(st.integers(-3, size + 3), max_size=1),
            st.just([size - 1]),
        ),
        max_size=6,
    ).map(lambda lists: [id for each in lists for id in each])
    prompt = draw(ids) or [0]
    answer = draw(ids)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(answer))), max_size=len(answer))))
    edges = [0, *cuts, len(answer)] if draw(st.booleans()) else list(range(len(answer) + 1))
    steps = [answer[a:b] for a, b in itertools.pairwise(edges) if a < b]
    words = tokenizer.decode([id for id in answer if 0 <= id < size])
    at = draw(st.integers(0, max(0, len(words) - 1)))
    stop = words[at : at + draw(st.integers(1, 4))]
    reason = draw(
        st.sampled_from(
            [{"type": "length", "length": 9}, {"type": "abort", "message": "m"}]
            + ([{"type": "stop", "matched": answer[-1]}] if answer else [])
            + ([{"type": "stop", "matched": stop}] if stop else [])
        )
    )
    sampling = SamplingParams(
        skip_special_tokens=draw(st.booleans()),
        spaces_between_special_tokens=draw(st.booleans()),
        no_stop_trim=draw(st.booleans()),
        stop=[stop] if stop and isinstance(reason.get("matched"), str) else None,
    )
    sampling.normalize(tokenizer)
    return prompt, steps or [[]], sampling, reason


def compare(manager: Any, detokenizer: Detokenizer, asked: Any) -> None:
    prompt, steps, sampling, reason = asked
    stream = detokenizer.stream(prompt, sampling)
    manager.decode_status.clear()  # an example may have failed before its end
    before = prompt[-5:]
    for no, ids in enumerate(steps):
        last = no == len(steps) - 1
        message = SimpleNamespace(
            rids=["a"], decoded_texts=[""], read_offsets=[len(before)],
            decode_ids=[[*before, *ids] if no == 0 else list(ids)],
            finished_reasons=[reason if last else None],
            skip_special_tokens=[sampling.skip_special_tokens],
            spaces_between_special_tokens=[sampling.spaces_between_special_tokens],
            no_stop_trim=[sampling.no_stop_trim],
        )  # fmt: skip
        (expected,) = manager._decode_batch_token_id_output(message)
        ours = stream.end(ids, reason) if last else stream.feed(ids)
        assert ours == expected, (no, ids, ours, expected)


def check(name: str, examples: int) -> None:
    make, kept = FAMILIES[name]
    tokenizer = make()
    manager, detokenizer = theirs(tokenizer), Detokenizer(tokenizer)
    assert detokenizer.knows_texts == kept, name

    @settings(max_examples=examples, deadline=None, database=None)
    @given(answers(tokenizer))
    def law(asked: Any) -> None:
        compare(manager, detokenizer, asked)

    law()


def what_never_becomes_a_character_costs_no_more_with_each_token() -> None:
    tokenizer = byte_level()
    detokenizer = Detokenizer(tokenizer)
    piece = tokenizer.convert_tokens_to_ids("Ð")  # the first byte of a letter
    sampling = SamplingParams()
    sampling.normalize(tokenizer)
    stream = detokenizer.stream([piece], sampling)
    texts = [stream.feed([piece]) for _ in range(2_000)]
    assert len(stream._held or ()) < 300
    assert len("".join(texts)) > 1_500
    ending = tokenizer.convert_tokens_to_ids("</s>")
    stream = detokenizer.stream(tokenizer.encode("a b") + [ending] * 3, sampling)
    assert [stream.feed([ending]) for _ in range(2_000)] == [""] * 2_000
    assert stream._held is None


if __name__ == "__main__":
    what_never_becomes_a_character_costs_no_more_with_each_token()
    for name in FAMILIES:
        check(name, int(sys.argv[1]))
        print(name, flush=True)
