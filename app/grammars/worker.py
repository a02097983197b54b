"""The process that compiles grammars on trial (trials/worker.py)."""

from __future__ import annotations

import msgspec
from llguidance import LLTokenizer

from app.grammars.compiler import Vocabulary
from app.grammars.lowering import lower
from app.grammars.refused import Refused
from app.trials import worker

_MEMORY_BYTES = 1024**3


class Trial(msgspec.Struct):
    kind: str
    text: str


class Verdict(msgspec.Struct):
    """One of the fields is set."""

    grammar: str | None = None
    """As the engine compiles it."""
    refused: str | None = None
    """Why it cannot be enforced."""


def set_up(line: bytes) -> tuple[LLTokenizer, dict[str, int]]:
    vocabulary = msgspec.json.decode(line, type=Vocabulary)
    return vocabulary.load(), vocabulary.special()


def run(state: tuple[LLTokenizer, dict[str, int]], line: bytes) -> bytes:
    trial = msgspec.json.decode(line, type=Trial)
    return msgspec.json.encode(_tried(trial, *state))


def _tried(trial: Trial, tokenizer: LLTokenizer, special: dict[str, int]) -> Verdict:
    try:
        return Verdict(grammar=lower(trial.kind, trial.text, tokenizer, special))
    except Refused as refused:
        return Verdict(refused=str(refused))
    except (MemoryError, RecursionError):
        return Verdict(refused="is too complex")
    except Exception:  # what a client's text makes of code that was written for another's
        return Verdict(refused="cannot be read")


if __name__ == "__main__":
    worker.serve(set_up, run, memory_bytes=lambda _: _MEMORY_BYTES)
