"""Which engine is started: ENGINE. Each engine is imported only if it is chosen."""

from __future__ import annotations

from collections.abc import Awaitable
from importlib.util import find_spec

from app.engine.base import Engine, Launched, Starting
from app.engine.environment import RuntimeDir
from app.errors import ConfigError
from app.settings.catalogue import Settings


def check_installed(settings: Settings) -> None:
    """Raises ConfigError if the engine's library is missing; imports nothing."""
    if settings.engine == "sglang" and find_spec("sglang") is None:
        raise ConfigError(
            "SGLang is not installed here: in a clone, pip install '.[engine]' or -r "
            "requirements.txt; --engine scripted needs none"
        )


async def launch(settings: Settings, runtime: RuntimeDir, starting: Starting) -> Launched:
    """Bring the engine up.

    Raises ConfigError or StartError with one clear line, EngineLost if a process of the engine ends
    meanwhile.
    """
    if settings.engine == "scripted":
        from app.engine import stand_in

        return await stand_in.launch(settings, starting)
    from app.engine.sglang import launch

    return await launch.launch(settings, runtime, starting)


async def attach(settings: Settings, parent: Awaitable[int]) -> Engine:
    """A serving process's part in the engine that its parent has started.

    `parent`: the parent's pid, known once its engine is up.
    """
    if settings.engine == "scripted":
        from app.engine import stand_in

        await parent
        return stand_in.engine_of(settings)
    from app.engine.sglang import shared

    return await shared.attach(settings, parent)
