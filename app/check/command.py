"""`serve_hathora.py check`: a client that asks a running server what its clients and platforms ask.

    main ─> ask_all (checks.py) ─> Row ─> on a terminal | as text | as JSON

It serves nothing and starts no engine; of this program's settings it takes the port and the key.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import httpx
from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from app.check import target
from app.check.checks import CHECKS, Row, Server, ask_all
from app.check.output import say
from app.settings.command_line import Parser

_STYLES = {"ok": "green", "warning": "yellow", "skipped": "dim", "fail": "bold red"}


def main(argv: Sequence[str]) -> int:
    """0: all as it should be; 1: a check failed, or no server answers. Raises ConfigError for
    wrong usage."""
    options = target.parsed(parser_of(), argv)
    shown_url = str(options.base_url).rstrip("/")
    with target.client_of(options) as client:
        try:
            client.get("/livez")
        except httpx.HTTPError as error:
            print(f"no server answers at {shown_url}: {error}", file=sys.stderr)
            return 1
        server = Server(client, options.timeout, options.api_key or None, options.model)
        show = _as_json if options.json else _on_terminal if sys.stdout.isatty() else _as_text
        rows = show(ask_all(server), f"seen at {shown_url}")
    return int(any(row.verdict == "fail" for row in rows))


def _on_terminal(rows: Iterator[Row], title: str) -> list[Row]:
    table = Table("check", "verdict", Column("ms", justify="right"), Column(Text(title)))
    shown = []
    with Live(Group(table, Spinner("dots", "asking"))) as live:
        for row in rows:
            verdict = Text(row.verdict, _STYLES[row.verdict])
            table.add_row(row.check, verdict, f"{row.ms:.0f}", Text(row.seen, overflow="fold"))
            shown.append(row)
        live.update(table)
    print(_summary(shown))
    return shown


def _as_text(rows: Iterator[Row], title: str) -> list[Row]:
    line = f"{{:<{max(len(name) for name, _ in CHECKS)}}}  {{:<7}}  {{:>6}}  {{}}"
    say(line.format("check", "verdict", "ms", title))
    shown = []
    for row in rows:
        say(line.format(row.check, row.verdict, f"{row.ms:.0f}", row.seen))
        shown.append(row)
    say(_summary(shown))
    return shown


def _as_json(rows: Iterator[Row], _: str) -> list[Row]:
    shown = list(rows)
    say(json.dumps([asdict(row) for row in shown], indent=2))
    return shown


def _summary(rows: Sequence[Row]) -> str:
    """Skipped checks are not counted."""
    count = Counter(row.verdict for row in rows)
    verdict = f"{count['fail']} failed" if count["fail"] else "all as they should be"
    also = ", ".join(f"{count[each]} {each}" for each in ("warning", "skipped") if count[each])
    return f"{len(rows) - count['skipped']} checks, {verdict}" + (f" ({also})" if also else "")


def parser_of() -> Parser:
    parser = Parser(
        prog="serve-hathora check",
        description="Ask a running server what its clients ask of it. Exit code 0: all is as it "
        "should be; 1: a check failed.",
    )
    target.add_arguments(parser)
    return parser
