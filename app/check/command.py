"""`serve_hathora.py check`: a client that asks a running server what its clients and platforms ask.

    main ─> ask_all (checks.py) ─> Row ─> on a terminal | as text | as JSON

It serves nothing and starts no engine; of this program's settings it takes the port and the key.
"""

from __future__ import annotations

import argparse
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

from app.check.checks import CHECKS, Row, Server, ask_all
from app.errors import ConfigError
from app.settings.load import load

_CONNECT_TIMEOUT_S = 5.0
_STYLES = {"ok": "green", "warning": "yellow", "skipped": "dim", "fail": "bold red"}


def main(argv: Sequence[str]) -> int:
    """0: all as it should be; 1: a check failed, or no server answers. Wrong usage exits with 2."""
    options = _arguments(argv)
    url: httpx.URL = options.base_url
    shown_url = str(url).rstrip("/")
    with httpx.Client(
        base_url=url,
        headers={"authorization": b"Bearer " + options.api_key.encode()} if options.api_key else {},
        timeout=httpx.Timeout(options.timeout, connect=min(options.timeout, _CONNECT_TIMEOUT_S)),
        # A proxy from the environment leads to other machines only.
        trust_env=url.host not in ("localhost", "127.0.0.1", "::1"),
    ) as client:
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
    print(line.format("check", "verdict", "ms", title))
    shown = []
    for row in rows:
        print(line.format(row.check, row.verdict, f"{row.ms:.0f}", row.seen), flush=True)
        shown.append(row)
    print(_summary(shown))
    return shown


def _as_json(rows: Iterator[Row], _: str) -> list[Row]:
    shown = list(rows)
    print(json.dumps([asdict(row) for row in shown], indent=2))
    return shown


def _summary(rows: Sequence[Row]) -> str:
    """Skipped checks are not counted."""
    count = Counter(row.verdict for row in rows)
    verdict = f"{count['fail']} failed" if count["fail"] else "all as they should be"
    also = ", ".join(f"{count[each]} {each}" for each in ("warning", "skipped") if count[each])
    return f"{len(rows) - count['skipped']} checks, {verdict}" + (f" ({also})" if also else "")


# -- the command line --------------------------------------------------------------------------


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="serve_hathora.py check",
        description="Ask a running server what its clients ask of it. Exit code 0: all is as it "
        "should be; 1: a check failed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--base-url", type=_base_url, metavar="URL", help="default: http://localhost:PORT")
    add("--api-key", metavar="KEY", help="default: the first of API_KEY")
    add("--model", metavar="NAME", help="default: the first that is listed")
    add("--timeout", type=_seconds, default=60.0, metavar="S", help="per answer; default: 60")
    add("--json", action="store_true", help="print the rows as a JSON list")
    options = parser.parse_args(argv)
    try:
        own = load({}).settings
    except ConfigError as error:  # another server may be asked: go on without them
        print(f"the settings here are not used: {error}", file=sys.stderr)
        own = load({}, {}).settings
    if options.base_url is None:
        options.base_url = _base_url(f"localhost:{own.port or 8000}")
    if options.api_key is None and own.api_key:
        options.api_key = own.api_key[0].get_secret_value()
    if options.api_key and not options.api_key.isprintable():  # httpx would refuse it, and quote it
        parser.error("the API key has characters that no header can carry")
    return options


def _base_url(text: str) -> httpx.URL:
    """With or without a scheme, /v1 and a slash at its end."""
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL:
        url = httpx.URL("")
    known = url.scheme in ("http", "https") and url.host and (url.port or 0) < 65536
    if not known or url.userinfo or url.query:
        raise argparse.ArgumentTypeError("must be http(s)://host[:port][/path]")
    return url.copy_with(path=url.path.rstrip("/").removesuffix("/v1") or "/", fragment=None)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 86400")
    return seconds
