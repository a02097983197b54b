"""The serving layer alone, over an engine that costs next to nothing: `python -m bench.layer`.

    cost     CPU time of a frame and of a request, at 1, 64 and 1024 streams
    memory   of an open stream
    crowd    100,000 streams, 1024 at once: nothing lost, repeated, reordered or left behind
    soak     100,000 requests, every tenth left in the middle: does memory grow?

Everything is real but the engine: uvicorn, uvloop, the application, logs to a file. Server and
client are processes of their own. All four take about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import platform
import sys
from pathlib import Path

import orjson
import psutil

from bench.layer import parts
from bench.layer.parts import Row, Sizes

_PARTS = {
    "cost": parts.cost, "memory": parts.memory, "crowd": parts.crowd, "soak": parts.soak,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.layer", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    default = Sizes(port=8350)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(_PARTS)}; or all")
    parser.add_argument("--port", type=int, default=default.port)
    parser.add_argument("--streams", type=int, nargs="+", default=default.streams)
    parser.add_argument("--tokens", type=int, default=default.tokens, help="of cost's long answers")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="of cost")
    parser.add_argument("--crowd", type=int, default=default.crowd, help="streams at once")
    parser.add_argument(
        "--requests",
        type=int,
        default=default.requests,
        help="of crowd and of soak; fewer are not enough to tell growth from warm-up",
    )
    parser.add_argument("--output", type=Path, help="write the raw figures here, as JSON")
    given = vars(parser.parse_args())
    output, chosen = given.pop("output"), given.pop("parts") or list(_PARTS)
    if unknown := set(chosen) - set(_PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    rows = asyncio.run(_measure(chosen, Sizes(**given)))
    print(table(rows))
    if output is not None:
        about = {"machine": _machine(), "sizes": given}
        found = [dataclasses.asdict(row) for row in rows]
        output.write_bytes(orjson.dumps(about | {"rows": found}, option=orjson.OPT_INDENT_2))
    sys.exit(any(row.over for row in rows))


async def _measure(chosen: list[str], sizes: Sizes) -> list[Row]:
    return [row for name in chosen for row in await _PARTS[name](sizes)]


def table(rows: list[Row]) -> str:
    lines = [
        f"| {'serving layer alone':<40} | {'':>13} | {'at most':>7} |",
        "| --- | ---: | ---: |",
    ]
    for row in rows:
        figure = f"{row.figure:,.0f}" if row.figure >= 1000 else f"{row.figure:.3g}"
        bound = "" if row.bound is None else f"{row.bound:g}" + " (over)" * row.over
        lines.append(f"| {row.what:<40} | {f'{figure} {row.unit}'.strip():>13} | {bound:>7} |")
    return "\n".join(lines)


def _machine() -> str:
    memory_gb = psutil.virtual_memory().total / 1e9
    return (
        f"{psutil.cpu_count()} CPUs, {memory_gb:.0f} GB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
