"""`sglang.Engine` in a thread with an event loop of its own, and the way there and back.

SGLang's reader of outputs belongs to the loop of its first request, where it would take SIGTERM for
itself: it does so in the main thread only, which is not this one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from app import signals
from app.errors import StartError
from app.logs.setup import log

T = TypeVar("T")


class Bridge:
    """All methods belong to the event loop of the server."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.engine: Any = None
        """`sglang.Engine`, once it is built."""

    def build(self, build: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run `build`, which returns the engine, in the engine thread; then serve there for ever.

        Done with the engine or its error.
        """
        here = asyncio.get_running_loop()
        built: asyncio.Future[Any] = here.create_future()

        def settle(engine: Any, error: BaseException | None) -> None:
            if built.done():
                return
            self.engine = engine
            if error is None:
                built.set_result(engine)
            else:
                built.set_exception(error)

        def run() -> None:
            # Children inherit what this thread blocks. Starting the tracker unblocks some.
            signals.block_in_this_thread()
            resource_tracker.ensure_running()
            signals.block_in_this_thread()
            try:
                engine, error = build(), None
                self._loop = engine.loop
            except BaseException as raised:  # the only place in this thread that can report it
                engine, error = None, raised
                if isinstance(raised, SystemExit):
                    error = StartError(f"SGLang ended the start (exit {raised.code})")
            here.call_soon_threadsafe(settle, engine, error)
            # After an error, too: the children ask the kernel to be killed when this thread ends.
            (self._loop or asyncio.new_event_loop()).run_forever()

        threading.Thread(target=run, name="engine", daemon=True).start()
        return built

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` on the engine's loop; cancelling the future cancels it there."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def shut_down(self) -> None:
        """End the engine's processes. The engine's own loop may have ended: not there, but in a
        thread."""
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        try:
            self.engine.shutdown()
        except Exception as error:  # it waits for processes that a device may hold
            log.error("SGLang could not end its processes", exc_info=error)
