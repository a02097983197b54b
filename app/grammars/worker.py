"""The process that compiles grammars on trial. process.py starts it.

Standard input: the vocabulary on the first line, then one `Trial` on each. Standard output: an
empty `Verdict` when it is up, then one for each trial. The process ends when its input does.

Each trial is a child of its own, forked from here with the vocabulary loaded: it may take too much
processor time or memory, or crash, as compilers written for trusted input do.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import msgspec
from llguidance import LLTokenizer

from app.grammars.compiler import Unusable, Vocabulary
from app.grammars.lowering import lower
from app.grammars.refused import Refused

_MEMORY_BYTES = 1024**3


class Trial(msgspec.Struct):
    kind: str
    text: str
    cpu_s: float


class Verdict(msgspec.Struct):
    """One of the fields is set, but for the first of a process."""

    grammar: str | None = None
    """As the engine compiles it."""
    refused: str | None = None
    """Why it cannot be enforced."""
    too_slow: bool = False
    crashed: bool = False


def main() -> None:
    # Of what reaches the whole group, such as Ctrl-C, only the server takes notice: it drains.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    vocabulary = msgspec.json.decode(sys.stdin.buffer.readline(), type=Vocabulary)
    out = os.dup(1)
    try:
        tokenizer, special = vocabulary.load(), vocabulary.special()
    except Unusable as unusable:
        _write(out, msgspec.json.encode(Verdict(refused=str(unusable))) + b"\n")
        sys.exit(1)
    del vocabulary
    _limit_memory()
    _write(out, msgspec.json.encode(Verdict()) + b"\n")
    for line in sys.stdin.buffer:
        trial = msgspec.json.decode(line, type=Trial)
        child = os.fork()
        if child == 0:
            signal.setitimer(signal.ITIMER_PROF, trial.cpu_s)  # SIGPROF ends it
            verdict = _tried(trial, tokenizer, special)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _write(out, msgspec.json.encode(verdict) + b"\n")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            slow = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
            verdict = Verdict(too_slow=slow, crashed=not slow)
            _write(out, msgspec.json.encode(verdict) + b"\n")


def _tried(trial: Trial, tokenizer: LLTokenizer, special: dict[str, int]) -> Verdict:
    try:
        return Verdict(grammar=lower(trial.kind, trial.text, tokenizer, special))
    except Refused as refused:
        return Verdict(refused=str(refused))
    except (MemoryError, RecursionError):
        return Verdict(refused="is too complex")
    except Exception:  # what a client's text makes of code that was written for another's
        return Verdict(refused="cannot be read")


def _write(out: int, data: bytes) -> None:
    while data:
        data = data[os.write(out, data) :]


def _limit_memory() -> None:
    """Let the address space of each child grow by `_MEMORY_BYTES`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
