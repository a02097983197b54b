"""SGLang's own class of the model that is served, and no other.

SGLang imports every model that it has (200 modules, two seconds of each scheduler's start) to find
one, unless a package of SGLANG_EXTERNAL_MODEL_PACKAGE, as this one, has it. Written against 0.5.23,
`srt/models/registry.py`: what is not found here is looked for there.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import sglang.srt.models

from app.engine.sglang.importing import served_architecture
from app.engine.sglang.models import bert


def _classes(architecture: str) -> list[Any]:
    defines = re.compile(rf"^class {re.escape(architecture)}\(", re.MULTILINE)
    for folder in sglang.srt.models.__path__:
        for file in sorted(Path(folder).glob("*.py")):
            source = file.read_text(errors="replace")
            if "\nEntryClass" in source and defines.search(source):
                module = importlib.import_module(f"sglang.srt.models.{file.stem}")
                entry = module.EntryClass
                entries = entry if isinstance(entry, list) else [entry]
                return [each for each in entries if each.__name__ == architecture]
    return []


EntryClass: list[Any] = []
_architecture = served_architecture()
if _architecture and _architecture not in {each.__name__ for each in bert.EntryClass}:
    EntryClass = _classes(_architecture)
