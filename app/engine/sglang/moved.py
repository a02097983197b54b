"""What has moved in the installed SGLang, of what this program relies on.

contract.py says what that is, statement by statement; here each is run, and all that fail are told.
The release that this program is written against is trusted. Any other is tried at the start, in a
process of its own: importing all that the contract looks at takes ten seconds and 600 MB.

    python -m app.engine.sglang.moved           tells it; exits with 1 if something has moved
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from app.errors import StartError
from app.processes import ROOT, how_it_ended

TRUSTED = "0.5.23"
"""The release of SGLang that this program is written against."""
CONTRACT = Path(__file__).with_name("contract.py")
_TOLD = "moved: "
_TRIED_WITHIN_S = 300.0
_OURS = ("device", "incremental_streaming_output", "enable_metrics", "sleep_on_idle")


def installed() -> str:
    """The release of SGLang. Raises StartError if there is none."""
    try:
        return importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        raise StartError("SGLang is not installed: pip install -r requirements.txt") from None


def found_moved() -> list[str] | None:
    """What has moved, a line each; empty: nothing. None: it is the trusted release. Blocks."""
    release = installed()
    if release == TRUSTED:
        return None
    command = [sys.executable, "-m", "app.engine.sglang.moved", "--lines"]
    try:
        tried = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=_TRIED_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        return [f"the contract could not be tried within {_TRIED_WITHIN_S:.0f} s"]
    if tried.returncode == 0:
        return []
    told = [line[len(_TOLD) :] for line in tried.stdout.splitlines() if line.startswith(_TOLD)]
    return told or [f"the contract could not be tried ({how_it_ended(tried.returncode)})"]


def moved(source: str) -> Iterator[tuple[str, str]]:
    """Each statement that fails: where and why, and what it says.

    One that needs what could not be imported is not told.
    """
    names: dict[str, object] = {"__name__": "contract"}
    missing: set[str] = set()
    for statement in ast.parse(source).body:
        used = {each.id for each in ast.walk(statement) if isinstance(each, ast.Name)}
        made = _made(statement)
        if used & missing:
            missing |= made
            continue
        try:
            # Not without its assertions, as `python -O` would have it.
            code = compile(ast.Module([statement], []), str(CONTRACT), "exec", optimize=0)
            exec(code, names)  # noqa: S102 - a file of this program
        except Exception as error:  # whatever it is, it is not as it was
            missing |= made - names.keys()
            reason = (str(error) or "not so").splitlines()[0][:200]
            text = ast.get_source_segment(source, statement) or ""
            at = _line(error, statement)
            yield f"{CONTRACT.name}:{at}: {type(error).__name__}: {reason}", text[:400]


def not_to_be_imported() -> Iterator[tuple[str, str]]:
    """What the modules here import of SGLang and cannot: where and why, and the line."""
    folder = Path(__file__).parent
    for file in sorted(folder.rglob("*.py")):
        where = file.relative_to(folder)
        if where.parts[0] in ("public", "cpu") or file in (CONTRACT, Path(__file__)):
            continue
        source = file.read_text()
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("sglang"):
                continue
            try:
                module = importlib.import_module(str(node.module))
                for each in node.names:
                    if not hasattr(module, each.name):
                        importlib.import_module(f"{node.module}.{each.name}")
            except Exception as error:  # whatever it is, it is not as it was
                reason = (str(error) or "not so").splitlines()[0][:200]
                text = ast.get_source_segment(source, node) or ""
                yield f"{where}:{node.lineno}: {type(error).__name__}: {reason}", text


def _made(statement: ast.stmt) -> set[str]:
    """Names that it binds."""
    imported = statement.names if isinstance(statement, ast.Import | ast.ImportFrom) else []
    bound = {(each.asname or each.name).partition(".")[0] for each in imported}
    stored = (each for each in ast.walk(statement) if isinstance(each, ast.Name))
    return bound | {each.id for each in stored if isinstance(each.ctx, ast.Store)}


def _line(error: Exception, statement: ast.stmt) -> int:
    own = [each for each in traceback.extract_tb(error.__traceback__)
           if each.filename == str(CONTRACT)]  # fmt: skip
    return own[-1].lineno or statement.lineno if own else statement.lineno


def main(arguments: list[str]) -> int:
    from app.engine.sglang.importing import use_cpu, will_use_cpu
    from app.settings.catalogue import DECLARATIONS
    from app.spawned import end_with_parent

    warnings.simplefilter("ignore")
    end_with_parent(pipe=sys.stdout.fileno())
    if will_use_cpu(None):
        use_cpu()
    options = [each.engine_option for each in DECLARATIONS.values() if each.engine_option]
    sys.argv[1:] = [json.dumps([*options, *_OURS])]
    told = [*moved(CONTRACT.read_text()), *not_to_be_imported()]
    if "--lines" in arguments:
        for line, _ in told:
            print(_TOLD + line)
        return bool(told)
    from sglang.version import __version__

    for line, text in told:
        print(f"{line}\n{text}", end="\n\n")
    print(f"SGLang {__version__}: {len(told)} moved" if told else f"SGLang {__version__}: kept")
    return bool(told)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # SGLang's threads would keep it
