"""The process that compiles grammars on trial, and may be killed. grammar_process.py starts it.

Standard input: the vocabulary on the first line (xgrammar's serialised TokenizerInfo), then one
`{"kind": ..., "text": ...}` on each. Standard output: `{}` when it is up, then one
`{"error": null | "..."}` for each grammar. The process ends when its input does, or with SIGXCPU
when a grammar takes more processor time than `argv[1]` seconds.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

_MEMORY_BYTES = 4 * 1024**3


def main() -> None:
    # Of what reaches the whole group, such as Ctrl-C, only the server takes notice: it drains.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)  # the engine's processes have priority
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = float(sys.argv[1])
    import xgrammar

    vocabulary = xgrammar.TokenizerInfo.deserialize_json(sys.stdin.readline())
    compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1, cache_enabled=False)
    compile: dict[str, Callable[[str], object]] = {
        "json_schema": compiler.compile_json_schema,
        "regex": compiler.compile_regex,
        "ebnf": compiler.compile_grammar,
        "structural_tag": compiler.compile_structural_tag,
    }
    _limit_memory()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    print("{}", file=answers)
    for line in sys.stdin:
        grammar = json.loads(line)
        _limit(seconds)
        error = None
        try:
            compile[grammar["kind"]](grammar["text"])
        except Exception as failure:  # xgrammar raises RuntimeError, ValueError and its own
            error = str(failure)[:1000] or type(failure).__name__
        print(json.dumps({"error": error}), file=answers)


def _limit_memory() -> None:
    """Let the address space grow by `_MEMORY_BYTES` from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def _limit(seconds: float) -> None:
    """Allow so much processor time from now on; the kernel counts whole seconds of the process."""
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds), resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
