"""What a test sets, and where a value came from."""

from __future__ import annotations

from app.settings.command_line import Parser, add_arguments, read
from app.settings.load import Loaded
from app.settings.show import describe


def flags(*argv: str) -> dict[str, object]:
    """What the command line sets."""
    parser = Parser(prog="test")
    add_arguments(parser)
    return read(argv, parser, ())


def origin(loaded: Loaded, name: str) -> tuple[str, str]:
    """The value that is shown for the setting of this name, and where it came from."""
    return next((value, origin) for each, value, origin in describe(loaded) if each == name)
