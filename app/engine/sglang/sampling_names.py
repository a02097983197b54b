"""Our `Sampling` by SGLang's names of its parameters.

Source: sglang 0.5.23, `srt/sampling/sampling_params.py`.
"""

from __future__ import annotations

from typing import Any

from app.types import Sampling

ANYTHING = "anything"
"""In the place of a grammar: of the answer itself nothing is asked (grammar_backend.py)."""
SAMPLERS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Those that have the same name here."""
_WHOLE_INTERVAL = 64
"""Tokens between two messages of an answer that is not read as it comes."""


def sampling_params(
    sampling: Sampling, *, defaults: dict[str, Any], honours_seed: bool, whole: bool, thinks: bool
) -> dict[str, Any]:
    """Only what differs from SGLang's defaults, which it then need not check.

    `defaults`: of the model's own generation config. `whole`: as in `Question`. `thinks`: the
    answer begins with thinking, whose end the engine sees.
    """
    params: dict[str, Any] = dict(defaults)
    if sampling.beam_width is not None:
        params["beam_width"] = sampling.beam_width
    elif whole:
        params["stream_interval"] = _WHOLE_INTERVAL
    # Absent would mean 128; None means up to the end of the context.
    params["max_new_tokens"] = sampling.max_tokens
    for name in SAMPLERS:
        if (value := getattr(sampling, name)) is not None:
            params[name] = value
    if sampling.min_tokens:
        params["min_new_tokens"] = sampling.min_tokens
    if sampling.frequency_penalty:
        params["frequency_penalty"] = sampling.frequency_penalty
    if sampling.presence_penalty:
        params["presence_penalty"] = sampling.presence_penalty
    if sampling.stop:
        params["stop"] = list(sampling.stop)
    if sampling.stop_token_ids:
        params["stop_token_ids"] = set(sampling.stop_token_ids)
    if sampling.ignore_eos:
        params["ignore_eos"] = True
    if not sampling.skip_special_tokens:
        params["skip_special_tokens"] = False
    if sampling.keep_stop:
        params["no_stop_trim"] = True
    if sampling.logit_bias:
        params["logit_bias"] = sampling.logit_bias
    if sampling.seed is not None and honours_seed:
        params["sampling_seed"] = sampling.seed
    if (grammar := sampling.grammar) is not None:
        params["ebnf"] = grammar.compiled
    if thinks and sampling.thinking_budget is not None:
        params["custom_params"] = {"thinking_budget": sampling.thinking_budget}
        params.setdefault("ebnf", ANYTHING)  # only beside a grammar the engine counts
        # As beside a grammar: at the budget one token is left, which a least number may forbid.
        # With none left the scheduler would end.
    if "ebnf" in params:
        params["min_new_tokens"] = 0  # that of the operator's `preferred_sampling_params`, too
    return params


def valid_defaults(defaults: dict[str, Any], operators: dict[str, Any]) -> dict[str, Any]:
    """A model's generation config as SGLang takes it: to others 0 means no bound. `operators`: what
    the operator prefers, for what the model says nothing of."""
    valid = {name: operators[name] for name in SAMPLERS if name in operators} | defaults
    if valid.get("top_k") == 0:
        valid["top_k"] = -1
    if (top_p := valid.get("top_p")) is not None and top_p <= 0:
        valid["top_p"] = 1e-6
    return valid
