"""Compare this server with SGLang's own two on the same machine; docs/performance.md.

    python -m bench compare --rounds 5
    python -m bench table bench-results.jsonl

The expensive benchmark: each server starts a real engine, an hour for five rounds. Take it for
figures that users see (throughput, TTFT, CPU per token), and before a release. For the cost of a
change to this server's own code take `python -m bench.layer`, which needs no model
(bench/README.md).
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

from bench import compare, table
from bench.load import LOADS
from bench.servers import BenchError

_RESULTS = Path("bench-results.jsonl")


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    # SIGTERM must end the servers that were started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.command == "compare":
            compare.run(_plan(options))
        print(table.markdown(table.read(options.output)))
    except (BenchError, ValueError, OSError, httpx.HTTPError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser("python -m bench", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("compare", help="run all in turn, then print the table")
    run.add_argument("--model", choices=LOADS, default="tiny")
    run.add_argument("--rounds", type=int, default=5)
    run.add_argument("--loads", type=_names, metavar="NAME,NAME", help="default: all")
    run.add_argument(
        "--servers", type=_names, metavar="NAME,NAME", default=list(compare.SERVERS),
        help=f"of {', '.join(compare.SERVERS)}; default: all",
    )  # fmt: skip
    run.add_argument("--no-floor", action="store_true", help="do not run the engine alone")
    run.add_argument("--no-metrics", action="store_true", help="without Prometheus metrics")
    run.add_argument(
        "--theirs", type=str.split, default=[], metavar="ARGS",
        help="more arguments of launch_server: --theirs=--incremental-streaming-output",
    )  # fmt: skip
    run.add_argument(
        "--ours", type=_setting, action="append", default=[], metavar="NAME=VALUE",
        help="one more setting of this server, such as TOKENIZER_WORKERS=2",
    )  # fmt: skip
    run.add_argument("--output", type=Path, default=_RESULTS, help=f"default: {_RESULTS}")
    show = commands.add_parser("table", help="print the table of raw results")
    show.add_argument("output", type=Path, metavar="FILE")
    return parser


def _names(text: str) -> list[str]:
    return text.split(",")


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _plan(options: argparse.Namespace) -> compare.Plan:
    return compare.Plan(
        model=options.model,
        rounds=options.rounds,
        loads=options.loads,
        servers=options.servers,
        floor=not options.no_floor,
        metrics=not options.no_metrics,
        theirs=options.theirs,
        ours=dict(options.ours),
        output=options.output,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
