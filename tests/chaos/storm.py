"""Faults of every kind done to servers under load, for as long as asked.

python -m tests.chaos.storm --minutes 60        make chaos MINUTES=60

Each round starts a server on the demo model, lets clients of every kind at it (clients.py), does
one fault to it, and checks: no answer is wrong, none hangs, and the server's end, if the fault is
one that ends it, is the one that its exit code says.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos.clients import Clients, Report
from tests.live.conftest import LiveServer
from tests.support import processes
from tests.support.machine import allowed

STALL_S = 30
"""One step of the demo model may take ten: the prompts of all clients are read at once."""
EXCUSED_S = 60
"""A scheduler that goes on without a word excuses a detokenizer for so long, on a CPU."""
BOUND_S = 120
"""A request that takes longer has hung: of the clients none has much to generate."""


@dataclass
class Fault:
    """`does` is done to the server in the middle of its load."""

    name: str
    does: Callable[[LiveServer], object]
    ends: int | None = None
    """The exit code that must follow; None: the server goes on as if nothing were."""
    within_s: float = 15.0
    unread_log: bool = False
    small_disk: bool = False
    detokenizer: bool = False
    """The server has one of SGLang's."""


def _kill(title: str) -> Fault:
    return Fault(
        f"kill {title}",
        lambda server: server.child(title).kill(),
        ends=70,
        detokenizer="detokenizer" in title,
    )


def _stop(title: str) -> Fault:
    return Fault(
        f"stop {title}",
        lambda server: server.child(title).suspend(),
        ends=73,
        within_s=STALL_S + EXCUSED_S + 15,
        detokenizer="detokenizer" in title,
    )


def _signal(number: signal.Signals) -> Fault:
    return Fault(
        f"signal {number.name}", lambda server: server.process.send_signal(number), ends=0,
        within_s=90,
    )  # fmt: skip


def _fill(server: LiveServer) -> None:
    """The folder of its files, which is a file system of a few megabytes."""
    with (server.folder / "tmp" / "filler").open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 2**16)
        except OSError:
            return


def _grammars_killed(server: LiveServer) -> None:
    for process in server.children():
        if "app.grammars.worker" in processes.title(process):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _nothing(server: LiveServer) -> None:
    pass


FAULTS = [
    _kill("sglang::scheduler"),
    Fault("the process that tries grammars is killed", _grammars_killed),
    _stop("sglang::detokenizer"),
    Fault("a log whose reader has stopped", _nothing, unread_log=True),
    _signal(signal.SIGTERM),
    _kill("sglang::detokenizer"),
    _stop("sglang::scheduler"),
    Fault("TMPDIR is full", _fill, small_disk=True),
    _signal(signal.SIGHUP),
    Fault("the server itself is killed", lambda server: server.process.kill(), ends=-9),
]


async def _round(
    fault: Fault, folder: Path, report: Report, chance: random.Random, model: str
) -> str | None:
    """One server, its load and its fault. Returns what was wrong about its end."""
    environment = {"ENGINE_STALL_TIMEOUT": str(STALL_S), "LOG_LEVEL": "info",
                   "DRAIN_TIMEOUT": "60",
                   "DETOKENIZER_PROCESS": str(fault.detokenizer)}  # fmt: skip
    mounted = folder / "tmp"
    if fault.small_disk:
        mounted.mkdir(parents=True)
        if os.system(f"mount -t tmpfs -o size=64m none {mounted} 2>/dev/null") != 0:
            return None  # not allowed here
        environment["TMPDIR"] = str(mounted)
    server = LiveServer(folder, model=model, unread=fault.unread_log, **environment)
    try:
        wrong = await _endured(server, fault, report, chance)
        return None if wrong is None else f"{wrong}; {_last_words(server)}"
    finally:
        await asyncio.to_thread(server.stop)
        if fault.small_disk:
            os.system(f"umount {mounted}")


def _last_words(server: LiveServer) -> str:
    """The server's last lines that are not about requests."""
    path = server.folder / "serve_hathora.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    told = [line for line in lines if '"level":"info"' not in line or '"phase"' in line]
    return f"code {server.process.poll()}; " + "\n".join(line[:600] for line in told[-6:])


async def _endured(
    server: LiveServer, fault: Fault, report: Report, chance: random.Random
) -> str | None:
    await asyncio.to_thread(server.ready)
    family = [psutil.Process(server.process.pid), *server.children()]
    clients = Clients(server.url, report, chance, bound_s=allowed(BOUND_S))
    clients.begin(each=3, hostile_per_s=20)
    try:
        if not await _served(server, clients, more=5):
            return "no request was served before the fault"
        fault.does(server)
        if fault.ends is None:
            if not await _served(server, clients, more=5):
                return "no request was served after the fault"
            server.process.terminate()
            wanted, within_s = 0, 90.0
        else:
            wanted, within_s = fault.ends, fault.within_s
        code = await asyncio.to_thread(server.process.wait, allowed(within_s))
    except subprocess.TimeoutExpired:
        return f"it did not end within {within_s:g} s"
    finally:
        await clients.end()
    if code != wanted:
        return f"it ended with {code} instead of {wanted}"
    await asyncio.sleep(allowed(3))
    left = [each for each in family if processes.alive(each)]
    return f"these were left: {left}" if left else None


async def _served(server: LiveServer, clients: Clients, *, more: int) -> bool:
    """Wait until the server has answered so many more, or has ended."""
    wanted, until = clients.served + more, time.monotonic() + allowed(BOUND_S)
    while clients.served < wanted and time.monotonic() < until:
        if server.process.poll() is not None:
            break
        await asyncio.sleep(0.1)
    return clients.served >= wanted


async def storm(
    minutes: float, seed: int, *, model: str = "demo", quiet: bool = False
) -> tuple[Report, list[str]]:
    """Rounds until the time is over. Returns what clients have seen, and ends that were wrong."""
    report, bad = Report(), []
    until = time.monotonic() + minutes * 60
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        for no, fault in enumerate(itertools.cycle(FAULTS)):
            if no and time.monotonic() >= until:
                break
            wrong = await _round(fault, Path(folder) / str(no), report, chance, model)
            if wrong is not None:
                bad.append(f"{fault.name}: {wrong}")
            if not quiet:
                left = max(0.0, until - time.monotonic()) / 60
                requests = report.outcomes.total()
                print(f"{no + 1:>4}  {fault.name:<45} {wrong or 'as it must':<40} "
                      f"{requests} requests, {left:.0f} min left", flush=True)  # fmt: skip
    return report, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--model", choices=["demo", "tiny"], default="demo")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    report, bad = asyncio.run(storm(options.minutes, options.seed, model=options.model))
    print(report.table())
    for line in (*bad, *report.wrong[:20]):
        print(line)
    sys.exit(1 if bad or report.wrong or report.hung else 0)


if __name__ == "__main__":
    main()
