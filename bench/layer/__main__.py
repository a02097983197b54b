"""The serving layer alone, over an engine that costs next to nothing: `python -m bench.layer`.

The cheap benchmark: no model, no SGLang, no GPU; `cost` alone takes a minute or two. Take it for
every change that could cost CPU time or memory per frame, request or stream. For figures that users
see, compared with SGLang's own server, take `python -m bench compare` (bench/README.md).

    cost     CPU time of a frame and of a request, at 1, 64 and 1024 streams
    memory   of an open stream
    crowd    100,000 streams, 1024 at once: no frame is lost, repeated or reordered
    soak     100,000 requests, every tenth client disconnects: does memory grow?

Everything but the engine is real: uvicorn, uvloop, the application, logs to a file. Server and
client are separate processes. All four parts take about half an hour on two cores.
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
    options = vars(parser.parse_args())
    output, chosen = options.pop("output"), options.pop("parts") or list(_PARTS)
    if unknown := set(chosen) - set(_PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    rows = asyncio.run(_measure(chosen, Sizes(**options)))
    print(table(rows))
    if output is not None:
        results = {
            "machine": _machine(),
            "sizes": options,
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        output.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))
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
