"""The names of SGLang's options: `.venv/bin/python -m tests.engine.sglang_fields` writes them to
app/settings/sglang_fields.txt, after another release of SGLang was installed."""

from __future__ import annotations

from pathlib import Path

import msgspec

FILE = Path(__file__).parents[2] / "app" / "settings" / "sglang_fields.txt"


def fields() -> list[str]:
    """Of the installed release; those that its own code sets begin with an underscore."""
    from sglang.srt.server_args import ServerArgs

    names = [field.name for field in msgspec.structs.fields(ServerArgs)]
    return sorted(name for name in names if not name.startswith("_"))


if __name__ == "__main__":
    FILE.write_text("\n".join(fields()) + "\n")
