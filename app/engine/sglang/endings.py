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
    message = str(finish.get("message") or "The engine ended this request.")[:400]
    if message.startswith(("Failed to compile", "Grammar preprocessing")):
        # The rest of the message may be the whole grammar.
        reason = message.partition(": ")[2].partition("grammar_key")[0][:200]
        return InvalidRequest(
            f"The engine cannot compile this schema or grammar: {reason}", param="response_format"
        )
    match finish.get("status_code"):
        case 400:
            return InvalidRequest(message)
        case 503:
            return Overloaded(message)
        case _:
            return InternalError(message)


def refused(error: ValueError) -> InvalidRequest:
    """SGLang refuses a request by ValueError before its first output.

    Our own bounds are checked earlier, so the log names a bound that we do not know of.
    """
    log.warning("SGLang refused a request", reason=str(error)[:400])
    return InvalidRequest(str(error)[:400])
