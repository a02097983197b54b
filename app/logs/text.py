"""`LOG_FORMAT=text`: the lines of the Hathora document's server, "Log Format", for those that read
them by pattern.

    2025-09-09 19:12:30,059 - serve_hathora - INFO - [127.0.0.1] POST /v1/models - Request started
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from structlog.typing import EventDict

from app.logs.console import ready_parts

_KINDS = {
    "/v1/chat/completions": "Chat completion",
    "/v1/completions": "Completion",
    "/v1/messages": "Message",
    "/v1/responses": "Response",
}
_NOT_SHOWN = frozenset(
    {"event", "level", "logger", "timestamp", "exception", "stack", "request_id", "process"}
)


def document_line(event: EventDict) -> str:
    """A line with all that it says; a traceback stands on lines of its own, which are indented."""
    at = datetime.fromisoformat(event["timestamp"]).astimezone()
    line = (
        f"{at:%Y-%m-%d %H:%M:%S},{at.microsecond // 1000:03} - {event['logger']} - "
        f"{event['level'].upper()} - {_message(event)}"
    )
    return "\n".join([line, *(event[name] for name in ("exception", "stack") if name in event)])


def _message(event: EventDict) -> str:
    match event["event"]:
        case "request started" if "path" in event:
            return f"{_asked(event)} - Request started"
        case "request finished" if "path" in event:
            done = f"Status: {event['status']}, Duration: {event['duration_ms']}ms"
            return f"{_asked(event)} - {done}{_failure(event)}"
        case "ready" if "seconds" in event:
            return " · ".join(ready_parts(event))
        case "generation requested":
            kind = _KINDS.get(event["path"], event["path"])
            return f"{kind} request: {_pairs(event, but=('id', 'path'))}"
        case "generation started":
            return (
                f"[{event['id']}] Starting generation for prompt length: {event['prompt_tokens']}"
            )
        case "generation completed":
            return f"[{event['id']}] Generation completed in {event['duration_ms']}ms"
        case text:
            pairs = _pairs(event)
            return f"{text}: {pairs}" if pairs else str(text)


def _asked(event: EventDict) -> str:
    if "job" in event:
        return f"[job {event['job']}] {event.get('path') or '-'}"
    return f"[{event.get('client') or '-'}] {event.get('method', '-')} {event['path']}"


def _failure(event: EventDict) -> str:
    if not (code := event.get("ended_by")):
        return ""
    error = event.get("error")
    return f", Error: {code}: {error}" if error else f", Error: {code}"


def _pairs(event: EventDict, but: tuple[str, ...] = ()) -> str:
    shown: dict[str, Any] = {
        name: value for name, value in event.items() if name not in _NOT_SHOWN and name not in but
    }
    return ", ".join([f"{name}={value}" for name, value in shown.items()])
