"""A shorter way from text to token ids, on which other threads run on."""

from __future__ import annotations

from typing import Any

_LONG_CHARS = 2_000
"""Beyond, the batch's way is quicker, though it begins with handing the text to other threads."""
_SAMPLES = ("", "Hello world", " a\n\tb  c", "Łódź 🌦️ <|im_start|><s></s>")


def use_fast_encode(tokenizer: Any) -> None:
    """Let `tokenizer.encode` of a plain text go straight to its Rust part.

    transformers looks at some twenty options before and makes dicts of lists after, which takes
    several times as long as encoding a short prompt. No effect where its own code would do
    something else: in classes that override it, and for calls with other options.

    `backend.encode` keeps Python's lock as long as it takes, seconds for a megabyte; its batches
    let go of it, and leave out the places of tokens in the text, which takes half of the time.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    methods = [getattr(type(tokenizer), name, None) for name in ("encode", "_encode_plus")]
    if backend is None or not all(
        getattr(method, "__module__", "").startswith("transformers.tokenization_")
        for method in methods
    ):
        return
    usual = tokenizer.encode

    def encode(text: Any, add_special_tokens: bool = True, **options: Any) -> list[int]:
        if (
            type(text) is not str
            or options
            or backend.truncation is not None
            or backend.padding is not None
            or backend.encode_special_tokens
        ):
            ids: list[int] = usual(text, add_special_tokens=add_special_tokens, **options)
            return ids
        if len(text) > _LONG_CHARS:
            (encoding,) = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return list(encoding.ids)
        return list(backend.encode(text, add_special_tokens=add_special_tokens).ids)

    samples = (*_SAMPLES, *map(str, tokenizer.all_special_tokens))
    long = " ".join(samples) * (1 + _LONG_CHARS // len(" ".join(samples)))
    if all(
        encode(text, add_special_tokens=special) == usual(text, add_special_tokens=special)
        for text in (*samples, long)
        for special in (True, False)
    ):
        tokenizer.encode = encode
