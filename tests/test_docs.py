"""The documents: generated ones are fresh, links lead somewhere, tutorials show what is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
]
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"`((?:app|tests|docs|deploy|bench)/[\w./-]+)`")


def links(document: Path) -> Iterator[str]:
    """Targets of a document's links that are not addresses on the web."""
    for target in _LINK.findall(_FENCE.sub("", document.read_text())):
        if "://" not in target and not target.startswith("mailto:"):
            yield target


def anchors(document: Path) -> set[str]:
    """What a heading can be reached by: lower case, blanks as hyphens, punctuation left out."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", document.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in links(document):
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), f"{document.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{document.name}: {link}"


def test_the_index_names_every_document() -> None:
    index = ROOT / "docs/README.md"
    named = {link.partition("#")[0] for link in links(index)}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= named


def test_the_drawing_is_what_the_script_draws() -> None:
    drawn = run(str(ROOT / "docs/architecture_svg.py"))
    assert drawn == (ROOT / "docs/architecture.svg").read_text(), "run `make docs`"


def test_the_tutorial_shows_what_the_stations_print() -> None:
    tutorial = (ROOT / "docs/tutorial-tool-call.md").read_text()
    for line in run("-m", "docs.tool_call").splitlines():
        if "call_" not in line and '"created":' not in line:  # the only things that change
            assert line in tutorial, line


def test_files_that_documents_name_exist() -> None:
    for document in DOCUMENTS:
        for name in _NAMED.findall(document.read_text()):
            assert (ROOT / name).exists(), f"{document.name}: {name}"


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout
