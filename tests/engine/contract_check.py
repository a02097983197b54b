"""Runs every statement of contract.py, and tells all that have failed.

    PYTHONPATH=FOLDER python tests/engine/contract_check.py      another release of SGLang, unpacked

Exits with 1 if something moved. A statement that needs what could not be imported is not told.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

warnings.simplefilter("ignore")
ROOT = Path(__file__).parents[2]
CONTRACT = Path(__file__).with_name("contract.py")
OURS = ("device", "incremental_streaming_output", "enable_metrics", "sleep_on_idle")


def moved(source: str) -> Iterator[str]:
    """Each statement that fails: its line, what it says, and why."""
    names: dict[str, object] = {"__name__": "contract"}
    missing: set[str] = set()
    for statement in ast.parse(source).body:
        used = {each.id for each in ast.walk(statement) if isinstance(each, ast.Name)}
        made = _made(statement)
        if used & missing:
            missing |= made
            continue
        try:
            exec(compile(ast.Module([statement], []), str(CONTRACT), "exec"), names)
        except Exception as error:  # whatever it is, it is not as it was
            missing |= made - names.keys()
            reason = str(error) or "not so"
            text = ast.get_source_segment(source, statement) or ""
            at = _line(error, statement)
            yield f"{CONTRACT.name}:{at}: {type(error).__name__}: {reason[:200]}\n{text[:400]}"


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


def main() -> int:
    sys.path.append(str(ROOT))
    from app.engine.sglang.importing import use_cpu
    from app.settings.catalogue import DECLARATIONS

    if not Path("/dev/nvidia0").exists():
        use_cpu()
    options = [each.engine_option for each in DECLARATIONS.values() if each.engine_option]
    sys.argv[1:] = [json.dumps([*options, *OURS])]
    from sglang.version import __version__

    found = list(moved(CONTRACT.read_text()))
    for each in found:
        print(each, end="\n\n")
    print(f"SGLang {__version__}: {len(found)} moved" if found else f"SGLang {__version__}: kept")
    return bool(found)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # SGLang's threads would keep it
