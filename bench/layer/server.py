"""`serve_hathora.py` over the stepped engine, as a process of its own: everything but the model.

`--engine-arg step_s=0.5` sets the engine's pace; all other options are the server's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


async def _launch(settings: Any, runtime: Any, loading: Callable[[], None]) -> Any:
    from bench.layer.engine import SteppedEngine

    loading()
    return SteppedEngine(float(settings.engine_args.get("step_s", 0)))


def main() -> None:
    from app import cli

    launching = ModuleType("app.engine.launch")
    vars(launching)["launch"] = _launch
    sys.modules["app.engine.launch"] = launching
    cli.main()


if __name__ == "__main__":
    main()
