"""The bounds of a request that depend on the loaded model, checked before the engine sees it.

SGLang's scheduler trusts its input: a token id outside the vocabulary, a `top_k` past 32 bits or an
infinite bias ends it, and with it every request. Bounds that do not depend on the model stand in
the dialects' bodies.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from app.engine.base import EngineInfo
from app.errors import ContextLengthExceeded, InvalidRequest
from app.types import GenerationRequest, Sampling, Scoring


def check_sampling(sampling: Sampling, info: EngineInfo) -> None:
    """Raises InvalidRequest that names the field and the bound."""
    if sampling.top_k is not None and sampling.top_k > info.vocab_size:
        raise InvalidRequest(
            f"top_k must be at most {info.vocab_size}, the size of the model's vocabulary.",
            param="top_k",
            code="integer_above_max_value",
        )
    min_p = info.default_sampling.get("min_p") if sampling.min_p is None else sampling.min_p
    if info.honours_seed and min_p:
        # SGLang's sampler asserts that min_p and seeds do not meet; the scheduler would die of it.
        raise InvalidRequest(
            "min_p is not supported while the engine samples deterministically.", param="min_p"
        )
    if info.drafts and sampling.min_p:
        raise InvalidRequest(
            "min_p would have no effect: the engine decodes speculatively. Please leave it out.",
            param="min_p",
            code="unsupported_parameter",
        )
    if sampling.beam_width is not None and 2 * sampling.beam_width > info.vocab_size:
        raise InvalidRequest(
            f"n must be at most {info.vocab_size // 2} beams: the model has so few tokens.",
            param="n",
        )
    check_ids(sampling.stop_token_ids, info, param="stop_token_ids")
    if sampling.logit_bias:
        check_ids([int(key) for key in sampling.logit_bias], info, param="logit_bias")
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        raise InvalidRequest(
            f"min_tokens must be at most max_tokens ({sampling.max_tokens}).", param="min_tokens"
        )


def check_budget(budget: int | None, info: EngineInfo, *, param: str) -> None:
    """Bound the thinking only where the engine can."""
    if budget is not None and not info.bounds_thinking:
        raise InvalidRequest(
            f"{param} cannot be kept in this model's format of thinking ({info.reasoning_parser}). "
            "Please leave it out, or use reasoning_effort.",
            param=param,
            code="unsupported_parameter",
        )


def check_ids(ids: Sequence[int], info: EngineInfo, *, param: str) -> None:
    """Every token id must be a row of the embedding."""
    if ids and not (min(ids) >= 0 and max(ids) < info.vocab_size):
        raise InvalidRequest(
            f"{param} holds a token id outside the model's vocabulary (0 to "
            f"{info.vocab_size - 1}).",
            param=param,
        )


def check_markers(text: str, pictures: int, info: EngineInfo, *, param: str) -> None:
    """The prompt must have one marker for each picture, and no other: some would end the engine.

    `text`: as the model reads it, so that no part of a marker can hide in a part of a message.
    Raises InvalidRequest.
    """
    if info.picture_pattern is None:
        return
    places = [found[0] for found in info.picture_pattern.finditer(text)]
    count = places.count(info.picture_marker)
    rest = text.replace(info.picture_marker, "\0")
    other = next((marker for marker in info.picture_markers if marker in rest), None)
    if count == len(places) == pictures and other is None:
        return
    which = f"'{other}'" if other is not None else f"{count} such texts for {pictures} pictures"
    raise InvalidRequest(
        f"Invalid value for '{param}': beside pictures a prompt may have no text that marks one to "
        f"this model, but in the place of each; it has {which}.",
        param=param,
    )


def check_chars(chars: int, longest: int, info: EngineInfo, *, param: str) -> None:
    """Bound a prompt before it is tokenised, which costs more than any other step on it here."""
    if chars > longest:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {info.context_length} tokens. However, your "
            f"{param} came to {chars} characters, of which at most {longest} are taken "
            f"(MAX_PROMPT_CHARS). Please reduce the length of the {param}.",
            param=param,
            size=(chars, "characters"),
            most=longest,
        )


def fit(
    sampling: Sampling,
    prompt: Sequence[int],
    info: EngineInfo,
    limit: int,
    *,
    param: str,
    clamps: bool = False,
) -> Sampling:
    """The sampling with `max_tokens` for this prompt; `limit` bounds prompt and answer together.
    `clamps`: as of `GenerationRequest`.

    Raises InvalidRequest for an empty prompt, ContextLengthExceeded for one that does not fit. The
    message begins as OpenAI's does: clients look for it.
    """
    if not prompt:
        raise InvalidRequest(f"{param} is empty: the model needs at least one token.", param=param)
    check_length(len(prompt), info, limit, param=param)
    head = f"This model's maximum context length is {limit} tokens. However, "
    wanted = sampling.max_tokens
    if wanted is not None and len(prompt) + wanted > limit:
        if clamps:
            return msgspec.structs.replace(sampling, max_tokens=limit - len(prompt))
        raise ContextLengthExceeded(
            f"{head}you requested {len(prompt) + wanted} tokens ({len(prompt)} in the {param}, "
            f"{wanted} in the completion). Please reduce one of them.",
            param=param,
        )
    if wanted is None and limit < info.context_length:
        return msgspec.structs.replace(sampling, max_tokens=limit - len(prompt))
    return sampling


def check_length(length: int, info: EngineInfo, limit: int, *, param: str) -> None:
    """A prompt of so many tokens must leave room for one more. Raises ContextLengthExceeded."""
    longest = min(info.max_prompt_tokens, limit - 1)
    if length > longest:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {limit} tokens. However, your {param} "
            f"resulted in {length} tokens, of which at most {longest} fit. Please reduce the "
            f"length of the {param}.",
            param=param,
            size=(length, "tokens"),
            most=longest,
        )


def check_embedded(ids: Sequence[int], info: EngineInfo, limit: int, *, param: str) -> None:
    """A text to embed must fit as a whole; nothing is cut off silently."""
    if not ids:
        raise InvalidRequest(f"{param} is empty: the model needs at least one token.", param=param)
    longest = min(info.max_prompt_tokens, limit)
    if len(ids) > longest:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {longest} tokens. However, your {param} "
            f"resulted in {len(ids)} tokens. Please reduce the length of the {param}.",
            param=param,
        )


def scored_tokens(
    max_tokens: Sequence[int], request: GenerationRequest, scoring: Scoring, most: int
) -> int | None:
    """Bound the scores of answers; `max_tokens`: the most that each prompt's may have.

    Returns None if they are within the bound; else, where the client has set no `max_tokens`, the
    tokens that each answer may have. Raises InvalidRequest where it has.
    """
    each = (scoring.top + 1) * request.n
    scores = sum(max_tokens) * each
    if scores <= most:
        return None
    fits = max(1, most // (each * len(max_tokens)))
    if request.sampling.max_tokens is None and fits >= request.sampling.min_tokens:
        return fits
    raise InvalidRequest(
        f"{scoring.param} of this answer may be {scores} numbers, of which at most {most} are "
        "given in one request (MAX_ANSWER_SCORES). Please ask for fewer tokens, choices or "
        "alternatives.",
        param=scoring.param,
    )


def check_scores(scoring: Scoring, lengths: Sequence[int], n: int, most: int) -> None:
    """Bound the scores of prompts: all are in memory at once, for every choice of the request."""
    if scoring.prompt_from is None:
        return
    if scoring.prompt_from > min(lengths):
        raise InvalidRequest(
            f"Invalid value for 'logprob_start_len': the prompt has {min(lengths)} tokens.",
            param="logprob_start_len",
        )
    scores = sum(max(0, length - scoring.prompt_from) for length in lengths) * (scoring.top + 1) * n
    if scores > most:
        raise InvalidRequest(
            f"{scoring.param} of these prompts are {scores} numbers, of which at most {most} are "
            "given in one request (MAX_PROMPT_SCORES). Please ask for fewer prompts, choices or "
            "alternatives at a time.",
            param=scoring.param,
        )
