"""Our sampling by SGLang's names."""

from __future__ import annotations

from typing import Any

import pytest

from app.engine.sglang.sampling_names import sampling_params
from app.types import Grammar, Sampling

DEFAULTS = {"temperature": 0.6, "top_k": 20}


def params(
    sampling: Sampling, *, honours_seed: bool = False, whole: bool = False, thinks: bool = False
) -> Any:
    return sampling_params(
        sampling, defaults=DEFAULTS, honours_seed=honours_seed, whole=whole, thinks=thinks
    )


def test_only_what_differs_from_the_defaults_is_passed_on() -> None:
    assert params(Sampling()) == {**DEFAULTS, "max_new_tokens": None}


def test_the_request_overrides_the_models_own_defaults() -> None:
    chosen = params(Sampling(temperature=0.0, top_k=-1, max_tokens=7))
    assert chosen == {"temperature": 0.0, "top_k": -1, "max_new_tokens": 7}


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        ("min_tokens", "min_new_tokens", 2),
        ("frequency_penalty", "frequency_penalty", 0.5),
        ("presence_penalty", "presence_penalty", -0.5),
        ("ignore_eos", "ignore_eos", True),
        ("skip_special_tokens", "skip_special_tokens", False),
        ("logit_bias", "logit_bias", {"1": 2.0}),
    ],
)
def test_each_field_has_its_name(field: str, name: str, value: Any) -> None:
    assert params(Sampling(**{field: value}))[name] == value


def test_a_seed_is_passed_on_only_to_an_engine_that_honours_it() -> None:
    assert "sampling_seed" not in params(Sampling(seed=1))
    assert params(Sampling(seed=1), honours_seed=True)["sampling_seed"] == 1


def test_every_grammar_goes_to_the_engine_in_its_compiled_form() -> None:
    named = params(Sampling(grammar=Grammar("regex", "a+", compiled="jstart: /a+/")))
    assert named["ebnf"] == "jstart: /a+/"
    assert "regex" not in named


def test_an_answer_that_is_read_whole_comes_in_few_messages() -> None:
    assert params(Sampling(), whole=True)["stream_interval"] > 1


def test_a_budget_of_thinking_is_counted_beside_a_grammar_even_if_none_is_asked_for() -> None:
    budget = Sampling(thinking_budget=7)
    assert "custom_params" not in params(budget)
    chosen = params(budget, thinks=True)
    assert (chosen["custom_params"], chosen["ebnf"]) == ({"thinking_budget": 7}, "anything")
    grammar = Grammar("regex", "a+", "regex", compiled="compiled")
    both = params(Sampling(thinking_budget=7, grammar=grammar), thinks=True)
    assert both["ebnf"] == "compiled"


def test_a_least_number_of_tokens_has_no_place_beside_a_budget() -> None:
    """At the budget one token is left. If that stops the answer and may not come yet, none is."""
    asked = Sampling(thinking_budget=0, min_tokens=5, stop_token_ids=(9,))
    assert "min_new_tokens" in params(asked)
    assert params(asked, thinks=True)["min_new_tokens"] == 0
