"""`serve_hathora.py` with a scripted engine, as a process of its own: everything but the model.

For what must be seen many times over, such as the way a supervised server ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))


async def _launch(settings: Any, runtime: Any, loading: Callable[[], None]) -> Any:
    from tests.support.scripted import ScriptedEngine

    loading()
    await asyncio.sleep(float(settings.engine_args.get("loading_s", 0)))
    return ScriptedEngine(*(["word "] + [0.05, "word "] * 50))


def main() -> None:
    from app import cli
    from app.hathora import supervisor

    supervisor._ENTRY = Path(__file__)
    engine = ModuleType("app.engine.launch")
    engine.launch = _launch  # type: ignore[attr-defined]
    sys.modules["app.engine.launch"] = engine
    cli.main()


if __name__ == "__main__":
    main()
