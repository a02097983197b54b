"""What a start says when SGLang fails: one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.engine.base import EngineLost
from app.engine.environment import RuntimeDir
from app.engine.sglang.watch import Watch
from app.errors import StartError

_MOST_CHARS = 800


@contextmanager
def told_in_a_line(watch: Watch, runtime: RuntimeDir, *, hint: str = "") -> Iterator[None]:
    """Whatever SGLang or a model's files raise becomes a StartError with its first line and `hint`,
    or an EngineLost if the cause is that a process of the engine was killed."""
    try:
        yield
    except (StartError, EngineLost):
        raise
    except Exception as error:  # SGLang's and model files' may be anything; raised again below
        if (killed := watch.killed()) is not None:
            raise EngineLost(killed) from error
        own = f"{type(error).__name__}: {error}".splitlines()[0][:_MOST_CHARS]
        reason = runtime.last_error() or own
        raise StartError(f"the engine could not be started: {reason}{hint}") from error
