"""Puts the pages of the site together for mkdocs: documents of docs/, of deploy/ and of the root.

Copies them, and whatever they link to, into build/site/pages with the same paths, so that each link
leads where it leads in the repository. A link to a folder leads to its README.md.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build/site/pages"
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)([^)\s]*\))")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def main() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")):
        _write(document)


def _write(document: Path) -> None:
    parts = _FENCE.split(document.read_text())
    parts[::2] = [_LINK.sub(lambda link: _followed(document, link), part) for part in parts[::2]]
    target = PAGES / document.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(parts))


def _followed(document: Path, link: re.Match[str]) -> str:
    """The link as it is, with what it leads to beside the pages."""
    before, path, after = link.groups()
    if "://" in path or path.startswith("mailto:"):
        return link[0]
    target = (document.parent / path).resolve()
    if target.is_dir() and (target / "README.md").exists():
        return f"{before}{path.rstrip('/')}/README.md{after}"
    if target.is_file() and target.suffix != ".md":
        copy = PAGES / target.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, copy)
    return link[0]


if __name__ == "__main__":
    main()
