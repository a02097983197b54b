"""SGLang's profiler, which stops the schedulers while it writes a trace."""

from __future__ import annotations

from typing import Any

from app import awake
from app.errors import InvalidRequest
from app.types import Json

_TRACE_S = 900.0
"""So long may it take to write one."""


class Profiler:
    """Of one engine."""

    def __init__(self, manager: Any) -> None:
        """`manager`: SGLang's TokenizerManager."""
        self._manager = manager
        self._running = 0
        """Calls that have not returned."""
        self._until = 0.0
        self.ended_at = 0.0
        """When the last call returned, by `awake.now`."""

    @property
    def is_busy(self) -> bool:
        """The schedulers may stand still for its sake."""
        return bool(self._running) or awake.now() < self._until

    async def run(self, options: Json | None) -> None:
        """Start it with these options, or stop it with None. Raises InvalidRequest."""
        self._running += 1
        by_itself = options is not None and options.get("num_steps")  # it stops, and writes
        self._until = awake.now() + _TRACE_S if by_itself else 0.0
        try:
            if options is None:
                await self._manager.stop_profile()
            else:
                from sglang.srt.managers.io_struct import ProfileReq

                await self._manager.start_profile(ProfileReq(**options))
        except RuntimeError as error:
            raise InvalidRequest(f"The profiler refuses: {error}"[:400]) from error
        finally:
            self._running -= 1
            self.ended_at = awake.now()
