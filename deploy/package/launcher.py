"""`serve-hathora`, the console script: starts the program beside this file in its place.

In a wheel this file is `serve_hathora_server/__init__.py`, the only package that it installs. The
program keeps the layout of a checkout below it:

    serve_hathora_server/__init__.py         this
    serve_hathora_server/serve_hathora.py    run as a script, puts its folder first in sys.path
    serve_hathora_server/app/                `app` of this process, and of those that it starts

So an environment may have an `app` of its own: neither sees the other.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    program = Path(__file__).with_name("serve_hathora.py")
    os.execv(sys.executable, [sys.executable, str(program), *sys.argv[1:]])  # noqa: S606
