"""The command line's flags, made from the declarations."""

from __future__ import annotations

import argparse
import json
from typing import Any, cast

from app.settings.catalogue import DECLARATIONS, ENGINE
from app.settings.declare import decoded, flag_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for every name of every setting, plus `--engine-arg name=value`."""
    groups: dict[str, Any] = {}
    for field, declared in DECLARATIONS.items():
        if not declared.has_flag:
            continue
        title = declared.section
        group = groups.setdefault(title, parser.add_argument_group(title))
        flags = [flag_of(name) for name in declared.accepted_names]
        text = f"{declared.help} [{declared.names[0]}]".replace("%", "%%")
        takes: dict[str, Any] = (
            {"nargs": "?", "const": "true", "metavar": "BOOL"}
            if declared.is_switch
            else {"metavar": field.upper()}
        )
        for flag in flags:
            group.add_argument(
                f"--{flag}",
                # Each spelling has a slot of its own, so that two that contradict are noticed.
                dest=flag,
                default=argparse.SUPPRESS,
                help=text if flag == flags[0] else argparse.SUPPRESS,
                **takes,
            )
    groups[ENGINE.title].add_argument(
        "--engine-arg",
        dest="engine-arg",
        action=_EngineArg,
        metavar="NAME=VALUE",
        default=argparse.SUPPRESS,
        help="Any option of SGLang; may be repeated.",
    )


class _EngineArg(argparse.Action):
    """Collects `--engine-arg name=value`; the value is JSON if it reads as such, else text."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option: object = None
    ) -> None:
        name, equals, text = str(values).partition("=")
        if not equals or not name:
            raise argparse.ArgumentError(self, f"expected NAME=VALUE, got {values!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        try:
            before = decoded(getattr(namespace, "engine-args", {}))
        except ValueError as error:
            raise argparse.ArgumentError(self, f"--engine-args: {error}") from None
        options = {**cast("dict[str, Any]", before), name.replace("-", "_"): value}
        setattr(namespace, "engine-args", options)
