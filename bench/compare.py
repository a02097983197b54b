"""Rounds: every load at each server, in the other order every second round, then at the floor."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import client, models, table
from bench.load import Load, chosen
from bench.servers import (
    FLOOR,
    OURS,
    RUST,
    THEIRS,
    BenchError,
    Server,
    end,
    launch_server,
    rust_server,
    this_server,
)
from bench.setup import ROOT, Subject, differences, engine_options
from bench.table import Result

_SEEDS_A_ROUND = 1000
SERVERS = {THEIRS: launch_server, RUST: rust_server, OURS: this_server}


@dataclass(frozen=True)
class Plan:
    """The command line, parsed."""

    model: str
    rounds: int
    loads: Sequence[str] | None
    servers: Sequence[str]
    floor: bool
    metrics: bool
    theirs: Sequence[str]
    """Further arguments for launch_server."""
    ours: Mapping[str, str]
    """Further settings of this server."""
    output: Path

    @property
    def setup(self) -> str:
        parts = [self.model]
        if not self.metrics:
            parts.append("no metrics")
        if self.theirs:
            parts.append(f"{THEIRS} {' '.join(self.theirs)}")
        if self.ours:
            parts.append(f"{OURS} {' '.join(f'{name}={v}' for name, v in self.ours.items())}")
        return ", ".join(parts)


def run(plan: Plan) -> None:
    """Raises BenchError as soon as a figure would be wrong; earlier results are kept."""
    loads, model = chosen(plan.model, plan.loads), models.find(plan.model)
    options = engine_options(plan.model, metrics=plan.metrics)
    subject = Subject(model, options, plan.theirs, plan.ours)
    first = table.next_round(table.read(plan.output), plan.setup)
    for number in range(first, first + plan.rounds):
        _say(f"round {number}, {number - first + 1} of {plan.rounds}")
        one_round = _Round(plan, subject, loads, number)
        one_round.servers()
        if plan.floor:
            one_round.floor()


class _Round:
    def __init__(self, plan: Plan, subject: Subject, loads: Sequence[Load], number: int) -> None:
        self._plan, self._subject, self._loads, self._number = plan, subject, loads, number

    def servers(self) -> None:
        options: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            order = [start for name, start in SERVERS.items() if name in self._plan.servers]
            # They take turns in starting: a machine that slows down over an hour favours neither.
            for start in order if self._number % 2 else reversed(order):
                with start(self._subject, Path(folder)) as server:
                    options.append(server.options())
                    if differing := differences(options[0], options[-1]):
                        raise BenchError(f"the engines' options differ: {'; '.join(differing)}")
                    server.settle()
                    self._keep(server.name, table.START, _start(server))
                    self._drive(server)

    def _drive(self, server: Server) -> None:
        for place, load in enumerate(self._loads):
            # No prompt is sent twice: the engine would have it in its cache.
            seed = self._number * _SEEDS_A_ROUND + place * 10
            figures = client.run(load, server, self._subject.model, seed=seed)
            if figures is not None:
                self._keep(server.name, load.name, figures)

    def floor(self) -> None:
        names = [load.name for load in self._loads if load.has_floor]
        if not names:
            return
        command = [sys.executable, "-m", "bench.floor", self._plan.model,
                   json.dumps(self._subject.options), *names]  # fmt: skip
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True, text=True,
            )  # fmt: skip
            try:
                for name, figures in _lines(process):
                    self._keep(FLOOR, name, figures)
                if code := process.wait():
                    log.seek(0)
                    last = log.read().decode(errors="replace").splitlines()[-25:]
                    raise BenchError("\n".join([f"{FLOOR} ended with {code}:", *last]))
            finally:
                end(process)

    def _keep(self, subject: str, load: str, figures: dict[str, float]) -> None:
        result = Result(self._plan.setup, self._number, subject, load, figures)
        table.write(self._plan.output, result)
        shown = ", ".join(
            f"{table.FIGURES[name]} {value:.4g}"
            for name, value in figures.items()
            if name in table.FIGURES
        )
        _say(f"  {subject}, {load}: {shown}")


def _start(server: Server) -> dict[str, float]:
    resident, unshared = server.tree_memory_bytes()
    return {
        "first_token_s": server.first_token_s,
        "tree_cpu_s": server.tree_cpu_s(),
        "tree_rss_mb": resident / 1e6,
        "tree_unshared_mb": unshared / 1e6,
    }


def _lines(process: subprocess.Popen[str]) -> Iterator[tuple[str, dict[str, float]]]:
    assert process.stdout is not None
    for line in process.stdout:
        name, figures = json.loads(line)
        yield name, figures


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
