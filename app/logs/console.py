"""The form of a line for people: the local time, what happened, and what is worth a column.

14:03:12 POST /v1/chat/completions 200 5.08 s · 37+8 tokens · ttft 112 ms · 7fdc5f9412f3
14:03:15 warning no GPU found: serving on the CPU, which is slow; DEVICE=cuda forbids it
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from structlog.typing import EventDict

FOREIGN_CHARS = 400
"""Of a library's line below error: SGLang writes some of 18,000."""
_ID_CHARS = 12
"""Of the hexadecimal digits of a request's id: enough to find it by."""
_ERROR_CHARS = 200
_ENGINES_ID = re.compile(r"[0-9a-f]{32}")
_ANY_ADDRESS = re.compile(r"(?<=//)(0\.0\.0\.0|\[::\])(?=[:/]|$)")
_SHOWN_ELSEWHERE = frozenset(
    {"event", "level", "logger", "timestamp", "exception", "stack", "request_id", "process"}
)
_RESET = "\x1b[0m"
_DIM, _BOLD, _RED, _GREEN, _YELLOW, _CYAN = ("2", "1", "31", "32", "33", "36")
_LEVELS = {"warning": _YELLOW, "error": _RED, "critical": _RED, "debug": _DIM}


class Console:
    """`own`: the logger of our own lines, which goes without saying."""

    def __init__(self, *, colors: bool, own: str) -> None:
        self._colors = colors
        self._own = own

    def text(self, event: EventDict) -> str:
        at = event.get("timestamp")
        time = (datetime.fromisoformat(at) if at else datetime.now(UTC)).astimezone()
        parts = [self._paint(f"{time:%H:%M:%S}", _DIM)]
        if (process := event.get("process")) is not None:
            parts.append(self._paint(f"[{process}]", _DIM))
        if (level := event.get("level", "info")) in _LEVELS:
            parts.append(self._paint(level, _LEVELS[level]))
        parts.append(self._said(event))
        line = " ".join(parts)
        return "\n".join([line, *(event[name] for name in ("exception", "stack") if name in event)])

    def _said(self, event: EventDict) -> str:
        match event["event"]:
            case "request finished":
                return self._request(event)
            case "ready" if "seconds" in event:
                return self._ready(event)
            case text:
                return self._line(str(text), event)

    def _request(self, event: EventDict) -> str:
        status = event.get("status", 0)
        color = _GREEN if 0 < status < 400 else _YELLOW if 400 <= status < 500 else _RED
        asked = event.get("method") or f"job {event.get('job', '-')}"
        head = f"{asked} {event.get('path') or '-'} {self._paint(str(status), color)} "
        facts = " · ".join(_facts(event))
        error = _failure(event)
        return head + facts + (f" · {self._paint(error, color)}" if error else "")

    def _ready(self, event: EventDict) -> str:
        first, *rest = ready_parts(event)
        verb, _, where = first.rpartition(" ")
        head = f"{self._paint(verb, _GREEN)} {self._paint(where, _BOLD)}"
        return " · ".join([_ANY_ADDRESS.sub("localhost", head), *rest])

    def _line(self, text: str, event: EventDict) -> str:
        """What has no form of its own."""
        logger = event.get("logger", self._own)
        if "reason" in event:
            text = f"{text}: {event['reason']}"
        if logger != self._own:
            if event.get("level") not in ("error", "critical") and len(text) > FOREIGN_CHARS:
                text = f"{text[:FOREIGN_CHARS]} ... ({len(text)} characters)"
            text = f"{self._paint(logger.partition('.')[0], _CYAN)}: {text}"
        pairs = [
            f"{self._paint(name, _DIM)}={_value(value)}"
            for name, value in event.items()
            if name not in _SHOWN_ELSEWHERE and name != "reason" and value is not None
        ]
        if (id := event.get("request_id")) is not None:
            pairs.append(f"{self._paint('request', _DIM)}={_short(id)}")
        return "  ".join([text, " ".join(pairs)]) if pairs else text

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}{_RESET}" if self._colors else text


def ready_parts(event: EventDict) -> list[str]:
    """Where the server is ready, the model, what it takes, how long the start took."""
    url, tokens, seconds = event.get("url"), event.get("context_length"), event["seconds"]
    return [
        f"ready on {url}" if url else "ready for jobs",
        event["model"],
        *([f"{tokens} tokens"] if tokens is not None else []),
        f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s",
    ]


def _facts(event: EventDict) -> Iterator[str]:
    """Of an ended request, in the order in which one looks for them."""
    yield duration(event.get("duration_ms", 0.0) / 1e3)
    prompt, completion = event.get("prompt_tokens"), event.get("completion_tokens")
    if prompt is not None:
        yield f"{prompt} tokens" if completion is None else f"{prompt}+{completion} tokens"
    if (ttft_ms := event.get("ttft_ms")) is not None:
        yield f"ttft {duration(ttft_ms / 1e3)}"
    if (reason := event.get("finish_reason")) not in (None, "stop"):
        yield reason
    if (id := event.get("request_id")) is not None and event.get("job") != id:
        yield _short(id)


def _failure(event: EventDict) -> str:
    """`code param: message`, as far as there is any; mostly the message names the parameter."""
    code, param, message = event.get("ended_by"), event.get("param"), event.get("error") or ""
    parts = [code] if code else []
    if param and param not in message:
        parts.append(param)
    if len(message) > _ERROR_CHARS:
        message = f"{message[:_ERROR_CHARS]} ..."
    return ": ".join(each for each in (" ".join(parts), message) if each)


def duration(seconds: float) -> str:
    """`112 ms`, `5.08 s`, `97.3 s`."""
    if seconds < 0.0005:
        return "<1 ms"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def _short(id: str) -> str:
    """A client's own is shown whole."""
    return id[:_ID_CHARS] if _ENGINES_ID.fullmatch(id) else id


def _value(value: Any) -> str:
    text = str(value)
    return f'"{text}"' if " " in text else text
