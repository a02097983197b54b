"""`serve_hathora.py` with a scripted engine, as a process of its own: everything but the model.

For what must be seen many times over, such as the way a supervised server ends. With several
TOKENIZER_WORKERS each of them has a script of its own, and the parent an engine that only lives.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))


async def _launch(settings: Any, runtime: Any, loading: Callable[[], None]) -> Any:
    loading()
    await asyncio.sleep(float(settings.engine_args.get("loading_s", 0)))
    return _shared() if settings.tokenizer_workers > 1 else _scripted(settings)


async def _attach(settings: Any, parent: Awaitable[int]) -> Any:
    await parent
    return _scripted(settings)


def _scripted(settings: Any) -> Any:
    from tests.support.scripted import ScriptedEngine

    return ScriptedEngine(*(["word "] + [0.05, "word "] * settings.engine_args.get("words", 50)))


def _shared() -> Any:
    from app.engine.shared import SharedEngine

    class Lives(SharedEngine):
        def __init__(self) -> None:
            self.lost = asyncio.get_running_loop().create_future()

        def all_attached(self) -> None:
            pass

        async def close(self) -> None:
            pass

    return Lives()


def main() -> None:
    from app import cli
    from app.engine import shared
    from app.hathora import supervisor
    from app.workers import parent

    supervisor._ENTRY = parent._ENTRY = Path(__file__)
    shared.attach = _attach
    engine = ModuleType("app.engine.launch")
    engine.launch = _launch  # type: ignore[attr-defined]
    sys.modules["app.engine.launch"] = engine
    cli.main()


if __name__ == "__main__":
    main()
