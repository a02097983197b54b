"""Bounds that depend on the loaded model: each holds to the last."""

from __future__ import annotations

from typing import Any

import pytest

from app.engine.base import EngineInfo
from app.errors import ContextLengthExceeded, InvalidRequest
from app.generation import limits
from app.types import Sampling, Scoring


def info(**fields: Any) -> EngineInfo:
    return EngineInfo(
        **{
            "model_path": "m",
            "version": "1",
            "device": "cpu",
            "context_length": 100,
            "max_prompt_tokens": 90,
            "vocab_size": 1000,
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("inside", "outside", "param"),
    [
        ({"top_k": 1000}, {"top_k": 1001}, "top_k"),
        ({"stop_token_ids": (999,)}, {"stop_token_ids": (1000,)}, "stop_token_ids"),
        ({"stop_token_ids": (0,)}, {"stop_token_ids": (-1,)}, "stop_token_ids"),
        ({"logit_bias": {"999": 1.0}}, {"logit_bias": {"1000": 1.0}}, "logit_bias"),
        (
            {"min_tokens": 5, "max_tokens": 5},
            {"min_tokens": 6, "max_tokens": 5},
            "min_tokens",
        ),
    ],
)
def test_sampling_is_bounded_by_the_model(
    inside: dict[str, Any], outside: dict[str, Any], param: str
) -> None:
    limits.check_sampling(Sampling(**inside), info())
    with pytest.raises(InvalidRequest) as refused:
        limits.check_sampling(Sampling(**outside), info())
    assert refused.value.param == param


def test_min_p_is_refused_while_the_engine_samples_deterministically() -> None:
    limits.check_sampling(Sampling(min_p=0.5), info())
    for sampling, defaults in ((Sampling(min_p=0.5), {}), (Sampling(), {"min_p": 0.1})):
        with pytest.raises(InvalidRequest):
            limits.check_sampling(sampling, info(honours_seed=True, default_sampling=defaults))
    limits.check_sampling(
        Sampling(min_p=0.0), info(honours_seed=True, default_sampling={"min_p": 0.1})
    )


def test_min_p_is_refused_where_the_engine_would_ignore_it() -> None:
    for min_p in (None, 0.0):
        limits.check_sampling(Sampling(min_p=min_p), info(drafts=True))
    with pytest.raises(InvalidRequest, match="speculatively"):
        limits.check_sampling(Sampling(min_p=0.5), info(drafts=True))


def fitted(prompt: int, max_tokens: int | None, limit: int = 100) -> int | None:
    sampling = Sampling(max_tokens=max_tokens)
    return limits.fit(sampling, range(prompt), info(), limit, param="prompt").max_tokens


def test_prompt_and_answer_fit_the_context_together() -> None:
    assert fitted(90, 10) == 10
    with pytest.raises(ContextLengthExceeded, match="requested 101 tokens"):
        fitted(90, 11)
    with pytest.raises(ContextLengthExceeded, match="91 tokens, of which at most 90 fit"):
        fitted(91, 1)
    with pytest.raises(InvalidRequest, match="is empty"):
        fitted(0, 1)


def test_an_answer_without_a_bound_ends_at_the_servers_limit() -> None:
    assert fitted(10, None, limit=100) is None  # the engine's own end of the context
    assert fitted(10, None, limit=50) == 40
    with pytest.raises(ContextLengthExceeded, match="at most 49 fit"):
        fitted(50, None, limit=50)


def test_an_embedded_text_fits_as_a_whole() -> None:
    limits.check_embedded(range(90), info(), 100, param="input")
    for tokens in (0, 91):
        with pytest.raises(InvalidRequest):
            limits.check_embedded(range(tokens), info(), 100, param="input")


def test_scores_of_prompts_are_counted_over_all_choices_and_alternatives() -> None:
    limits.check_scores(Scoring(top=1, prompt_from=2), [5, 2], n=2, most=12)
    limits.check_scores(Scoring(top=20), [1000], n=100, most=1)
    with pytest.raises(InvalidRequest, match="12 numbers"):
        limits.check_scores(Scoring(top=1, prompt_from=2), [5, 2], n=2, most=11)


def test_the_scores_of_a_prompt_begin_within_it() -> None:
    with pytest.raises(InvalidRequest, match="the prompt has 1 tokens") as refused:
        limits.check_scores(Scoring(prompt_from=2), [5, 1], n=1, most=100)
    assert refused.value.param == "logprob_start_len"


def test_a_prompt_is_bounded_in_characters_before_it_is_tokenised() -> None:
    limits.check_chars(50, 50, info(), param="prompt")
    with pytest.raises(ContextLengthExceeded, match="MAX_PROMPT_CHARS"):
        limits.check_chars(51, 50, info(), param="prompt")
