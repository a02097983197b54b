"""What our code does in each of the engine's processes, before SGLang does anything there.

SGLang configures logging first, in each process and in the serving one, from a file that
engine/environment.py writes: `logging_config`. Its handler is made by `log_handler`.
"""

from __future__ import annotations

import logging
from typing import Any

from app import mapped_files
from app.logs import setup
from app.logs.engine import PipeHandler
from app.settings.catalogue import Settings


def logging_config(settings: Settings) -> dict[str, Any]:
    """A dictConfig for the engine's processes."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"ours": {"()": f"{__name__}.{log_handler.__name__}"}},
        "root": {"level": settings.log_level.upper(), "handlers": ["ours"]},
    }


def log_handler() -> logging.Handler:
    """The handler for the calling process; the serving process goes on logging as it does."""
    from app import metric_files  # not before the environment is set: environment.py

    metric_files.allocate_first()
    mapped_files.allocate_first()
    return setup.queue_handler() or PipeHandler()
