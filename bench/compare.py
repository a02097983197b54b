"""Rounds: both servers, each second round in the other order, then the floor; with every load."""

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
from bench.servers import FLOOR, OURS, THEIRS, BenchError, Server, end, launch_server, this_server
from bench.setup import ROOT, Subject, differences, engine_options
from bench.table import Result

_SEEDS_A_ROUND = 1000


@dataclass(frozen=True)
class Asked:
    model: str
    rounds: int
    loads: Sequence[str] | None
    floor: bool
    metrics: bool
    theirs: Sequence[str]
    ours: Mapping[str, str]
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


def run(asked: Asked) -> None:
    """Raises BenchError as soon as a figure would be wrong; what was measured before is kept."""
    loads, model = chosen(asked.model, asked.loads), models.find(asked.model)
    options = engine_options(asked.model, metrics=asked.metrics)
    subject = Subject(model, options, asked.theirs, asked.ours)
    first = table.next_round(table.read(asked.output), asked.setup)
    for number in range(first, first + asked.rounds):
        _say(f"round {number}, {number - first + 1} of {asked.rounds}")
        one_round = _Round(asked, subject, loads, number)
        one_round.servers()
        if asked.floor:
            one_round.floor()


class _Round:
    def __init__(self, asked: Asked, subject: Subject, loads: Sequence[Load], number: int) -> None:
        self._asked, self._subject, self._loads, self._number = asked, subject, loads, number

    def servers(self) -> None:
        reported: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            order = (launch_server, this_server)
            # In turn first: a machine that slows down in the course of an hour favours neither.
            for start in order if self._number % 2 else reversed(order):
                with start(self._subject, Path(folder)) as server:
                    reported.append(server.options())
                    if found := differences(reported[0], reported[-1]):
                        raise BenchError(f"the engines' options differ: {'; '.join(found)}")
                    self._keep(server.name, table.START, {"first_token_s": server.first_token_s})
                    server.settle()
                    self._drive(server)

    def _drive(self, server: Server) -> None:
        for place, load in enumerate(self._loads):
            # No prompt twice, or the engine would have it in its cache.
            seed = self._number * _SEEDS_A_ROUND + place * 10
            self._keep(
                server.name, load.name, client.run(load, server, self._subject.model, seed=seed)
            )

    def floor(self) -> None:
        names = [load.name for load in self._loads if load.has_floor]
        if not names:
            return
        command = [sys.executable, "-m", "bench.floor", self._asked.model,
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
        result = Result(self._asked.setup, self._number, subject, load, figures)
        table.write(self._asked.output, result)
        shown = ", ".join(
            f"{table.FIGURES[name]} {value:.4g}"
            for name, value in figures.items()
            if name in table.FIGURES
        )
        _say(f"  {subject}, {load}: {shown}")


def _lines(process: subprocess.Popen[str]) -> Iterator[tuple[str, dict[str, float]]]:
    assert process.stdout is not None
    for line in process.stdout:
        name, figures = json.loads(line)
        yield name, figures


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
