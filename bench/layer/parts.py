"""The four measurements: cost, memory, a crowd of streams, growth under a long load."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import linear_regression, median

from bench.layer.client import Figures, Load
from bench.layer.processes import Server, held, run

_KB, _MB = 1024, 1024 * 1024
_SHORT_TOKENS = 16
_FEWEST_REQUESTS = 500
"""CPU time is measured in hundredths of a second, so a load must not be shorter."""
_WARM_UP_REQUESTS = 1024
_SILENT_STEP_S = 0.5
_OPENINGS = 4
_SOAK_STREAMS = 256
_SOAK_TOKENS = (8, 24)
_CROWD_TOKENS = (16, 48)
_WARM_UP_POINTS = 2
"""Points of the soak that are not part of the fitted line."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    figure: float
    unit: str
    bound: float | None = None
    """The largest figure that passes."""
    raw: list[object] = field(default_factory=list)
    """The measurements behind the figure."""

    @property
    def over(self) -> bool:
        return self.bound is not None and self.figure > self.bound


@dataclass(frozen=True)
class Sizes:
    """How large the measurements are; smaller sizes give a first impression."""

    port: int
    streams: Sequence[int] = (1, 64, 1024)
    tokens: int = 256
    rounds: int = 3
    crowd: int = 1024
    requests: int = 100_000


async def cost(sizes: Sizes) -> list[Row]:
    """CPU time of a frame and of a request, by the number of streams.

    Two loads differ only in the length of their answers: the difference of their costs is the cost
    of the frames. Each round measures every number of streams, and ratios are taken within a round.
    """
    points: dict[int, list[_Point]] = {count: [] for count in sizes.streams}
    async with Server.started(sizes.port) as server:
        for no in range(sizes.rounds):
            for count, measured in points.items():
                _report(f"cost: round {no + 1} of {sizes.rounds}, {count} streams")
                measured.append(await _point(server, count, sizes.tokens))
    rows = []
    for count, measured in points.items():
        name = "1 stream" if count == 1 else f"{count} streams"
        raw: list[object] = [dataclasses.asdict(each) for each in measured]
        rows += [
            Row(f"{name}: frames", median(each.frames_per_s for each in measured), "1/s", raw=raw),
            Row(f"{name}: CPU of a frame", median(each.frame_us for each in measured), "us"),
            Row(f"{name}: CPU of a request", median(each.request_us for each in measured), "us"),
        ]
    if 64 in points and 1024 in points:
        pairs = zip(points[1024], points[64], strict=True)
        ratios = [many.frame_us / few.frame_us for many, few in pairs]
        raw = list(ratios)
        rows.append(Row("a frame at 1024 streams / at 64", median(ratios), "", 1.3, raw))
    return rows


@dataclass(frozen=True)
class _Point:
    frame_us: float
    request_us: float
    frames_per_s: float
    client_us: float
    """CPU time of the client per frame; if it is not below the server's, the client is measured."""


async def _point(server: Server, streams: int, tokens: int) -> _Point:
    requests = max(_FEWEST_REQUESTS, streams)
    short_s, short = await _spent(server, streams, requests, _SHORT_TOKENS)
    long_s, long = await _spent(server, streams, requests, tokens)
    frame_s = (long_s - short_s) / (long.frames - short.frames)
    return _Point(
        frame_us=frame_s * 1e6,
        request_us=(short_s - frame_s * short.frames) / short.finished * 1e6,
        frames_per_s=long.frames / long.seconds,
        client_us=long.client_cpu_s / long.frames * 1e6,
    )


async def _spent(server: Server, streams: int, requests: int, tokens: int) -> tuple[float, Figures]:
    before_s = server.cpu_s
    figures = await run(Load(server.port, streams, requests, (tokens, tokens)))
    return server.cpu_s - before_s, figures


async def memory(sizes: Sizes) -> list[Row]:
    """Memory of an open, almost silent stream, and what is kept once all are closed.

    Warmed up by as many requests, a few at a time: many at once would leave free memory behind,
    and the open streams would fit into it unseen.
    """
    count = sizes.crowd
    async with Server.started(sizes.port, step_s=_SILENT_STEP_S) as server:
        await run(Load(server.port, 32, _WARM_UP_REQUESTS, (1, 1)))
        await server.idle()
        rss = [server.rss_bytes]
        for no in range(_OPENINGS):
            _report(f"memory: {count} open streams, time {no + 1} of {_OPENINGS}")
            async with held(Load(server.port, count, count, (100_000, 100_000))):
                rss.append(server.rss_bytes)
            await server.idle()
            rss.append(server.rss_bytes)
    before, first, *_, last, after = rss
    raw: list[object] = list(rss)
    return [
        Row("memory of an open stream", (first - before) / count / _KB, "KB", 64, raw),
        Row(f"the same, opened {_OPENINGS} times", (last - before) / count / _KB, "KB", 64),
        Row("kept of it for the next", (after - before) / count / _KB, "KB"),
    ]


async def crowd(sizes: Sizes) -> list[Row]:
    """Many streams at once, very many in total. Raises RuntimeError if an answer was wrong."""
    async with Server.started(sizes.port) as server:
        _report(f"crowd: {sizes.requests} streams, {sizes.crowd} at once")
        figures = await run(Load(server.port, sizes.crowd, sizes.requests, _CROWD_TOKENS))
        await server.idle()
    return [
        Row("streams answered in full", figures.finished, "", raw=[dataclasses.asdict(figures)]),
        Row("at once, most", figures.most_open, ""),
        Row("frames checked", figures.frames, ""),
        Row("streams", figures.finished / figures.seconds, "1/s"),
    ]


async def soak(sizes: Sizes) -> list[Row]:
    """Ten loads in a row in which every tenth client disconnects; memory is read between them."""
    each = sizes.requests // 10
    left = 0
    async with Server.started(sizes.port) as server:
        rss = [server.rss_bytes]
        for no in range(10):
            _report(f"soak: {each * no} of {sizes.requests} requests, {rss[-1] / _MB:.1f} MB")
            load = Load(server.port, _SOAK_STREAMS, each, _SOAK_TOKENS, leave=True)
            left += (await run(load)).left
            await server.idle()
            rss.append(server.rss_bytes)
    warm = rss[_WARM_UP_POINTS:]
    slope, _ = linear_regression(range(len(warm)), warm)
    return [
        Row("growth per 10,000 requests", slope / each * 10_000 / _MB, "MB", 1.0, list(rss)),
        Row("memory after all of them", rss[-1] / _MB, "MB"),
        Row("clients that left in the middle", left, ""),
    ]


def _report(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)
