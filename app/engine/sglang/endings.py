"""How SGLang ends or refuses a request, as a finish or an error of ours.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.
"""

from __future__ import annotations

from typing import Any

from app.errors import InternalError, InvalidRequest, Overloaded
from app.events import EndReason
from app.logs.setup import log


def end_of(finish: dict[str, Any]) -> tuple[EndReason, str | int | None]:
    """SGLang's finish reason as ours, and the stop string or token id that matched.

    Raises InternalError, InvalidRequest or Overloaded if the engine aborted the request.
    """
    kind, matched = finish["type"], finish.get("matched")
    if kind == "abort":
        raise aborted(finish)
    if kind not in ("stop", "length") or matched == "NaN happened":
        raise InternalError("The model's output could not be sampled.")
    return kind, matched


def aborted(finish: dict[str, Any]) -> InternalError | InvalidRequest | Overloaded:
    """An abort by the engine as an error of ours."""
    message = str(finish.get("message") or "")
    log.warning("the engine ended a request", reason=message[:400])
    # The message itself is for the log: it has the engine's own names, and may hold the request.
    if "rammar" in message:
        return InvalidRequest(
            "The answer could not be finished: the schema or grammar that it follows became too "
            "complex on the way. Please make it simpler.",
            param="response_format",
            code="grammar_too_complex",
        )
    if "KV cache pool is full" in message:
        return Overloaded("The engine has no room for this request; please try again.")
    match finish.get("status_code"):
        case 400:
            return InvalidRequest("The engine refused this request.")
        case 503:
            return Overloaded("The engine has no room for this request; please try again.")
        case _:
            return InternalError("The engine ended this request.")


def refused(error: ValueError) -> InvalidRequest:
    """SGLang refuses a request by ValueError before its first output.

    Our own bounds are checked earlier, so the log names a bound that we do not know of.
    """
    log.warning("SGLang refused a request", reason=str(error)[:400])
    return InvalidRequest("The engine refused this request.")
