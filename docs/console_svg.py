"""Draws docs/console.svg: what the terminal shows of a start and ten requests, byte for byte.

    .venv-light/bin/python docs/console_svg.py .venv/bin/python --demo > docs/console.svg

It starts `serve_hathora.py --demo` by that Python in a pseudo terminal of 100 columns, sends it ten
requests, and draws what was written until then. The lines, as text, go to standard error.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import httpx
from rich.console import Console
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.terminal import opened

_COLUMNS = 100
_START_S = 600
_ERASED = re.compile(r"[^\n]*\r\x1b\[K")
"""What was on the cursor's line before it was erased."""
_FONT = re.compile(r"@font-face \{.*?\}", re.DOTALL)
"""From a foreign host."""
_CHAT = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 24,
    "temperature": 0,
}
_REQUESTS = (
    ("/v1/chat/completions", _CHAT),
    ("/v1/chat/completions", _CHAT | {"stream": True}),
    ("/v1/completions", {"prompt": "Paris is", "max_tokens": 8}),
    ("/v1/messages", _CHAT | {"model": "sglang"}),
    ("/v1/responses", {"model": "sglang", "input": "Count to five.", "max_output_tokens": 16}),
    ("/v1/chat/completions", _CHAT | {"n": 2, "temperature": 1}),
    ("/v1/chat/completions", _CHAT | {"temperature": 5}),
    ("/v1/chat/completions", _CHAT | {"model": "gpt-4o"}),
    ("/tokenize", {"prompt": "Paris"}),
    ("/v1/chat/completions", _CHAT | {"max_tokens": 48}),
)


def seen(python: str, arguments: list[str]) -> str:
    """The lines of the terminal, with their colours."""
    with opened(*arguments, python=python, columns=_COLUMNS, HOST="0.0.0.0", PORT="") as terminal:
        url = re.search(r" ready on (\S+)/v1", terminal.find(" ready on ", _START_S))
        assert url is not None
        with httpx.Client(base_url=url[1], timeout=60) as client:
            for path, body in _REQUESTS:
                client.post(path, json=body)
        terminal.find(rf"(?s)(POST .*){{{len(_REQUESTS)}}}")
        written = terminal.written.decode()
        terminal.end()
    return _ERASED.sub("", written).replace("\r\n", "\n").rstrip("\n")


def _rows(text: Text) -> list[Text]:
    """Cut as a terminal does, in the midst of words."""
    lines = text.split("\n", allow_blank=True)
    return [row for line in lines for row in line.divide(range(_COLUMNS, len(line), _COLUMNS))]


def main() -> None:
    python, *arguments = sys.argv[1:]
    text = Text("\n").join(rows := _rows(Text.from_ansi(seen(python, arguments))))
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(text)
    print(text.plain, file=sys.stderr)
    print(f"-- {len(rows)} rows of {_COLUMNS} columns", file=sys.stderr)
    title = " ".join(["serve_hathora.py", *arguments])
    print(_FONT.sub("", console.export_svg(title=title, clear=False)))


if __name__ == "__main__":
    main()
