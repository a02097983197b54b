"""Compare this server with `sglang.launch_server` on the same machine; docs/performance.md.

python -m bench compare --rounds 5
python -m bench table bench-results.jsonl
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
    given = _parser().parse_args(argv)
    # Ended from outside, it must end what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if given.command == "compare":
            compare.run(_asked(given))
        print(table.markdown(table.read(given.output)))
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
    run = commands.add_parser("compare", help="run both in turn, then print the table")
    run.add_argument("--model", choices=LOADS, default="tiny")
    run.add_argument("--rounds", type=int, default=5)
    run.add_argument("--loads", type=_names, metavar="NAME,NAME", help="default: all")
    run.add_argument("--no-floor", action="store_true", help="do not run the engine alone")
    run.add_argument("--no-metrics", action="store_true", help="none of the three counts")
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


def _asked(given: argparse.Namespace) -> compare.Asked:
    return compare.Asked(
        model=given.model,
        rounds=given.rounds,
        loads=given.loads,
        floor=not given.no_floor,
        metrics=not given.no_metrics,
        theirs=given.theirs,
        ours=dict(given.ours),
        output=given.output,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
