"""`serve_hathora.py bench`: the table and the picture of a running server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from app.check import load
from app.check.load import LoadFailed, Rung, main
from app.check.picture import Curve, svg
from app.errors import ConfigError

RESULTS = {
    "completed": 12, "duration": 2.0, "total_output_tokens": 400, "median_ttft_ms": 30.0,
    "p99_ttft_ms": 90.0, "median_itl_ms": 5.0, "p99_itl_ms": 9.0, "errors": [""],
}  # fmt: skip


def test_a_rung_is_what_the_client_has_measured() -> None:
    assert load._rung(4, 12, dict(RESULTS)) == Rung(4, 6.0, 200.0, 30.0, 90.0, 5.0, 9.0)


def test_a_rung_with_a_failed_request_is_none() -> None:
    failed = RESULTS | {"completed": 11, "errors": ["", "503: full"]}
    with pytest.raises(LoadFailed, match=r"11 of 12 requests succeeded at 4 streams: .*503: full"):
        load._rung(4, 12, failed)


@pytest.mark.parametrize("wrong", [["--streams", "0"], ["--streams", "a"], ["--input-tokens", "-"]])
def test_wrong_usage_is_refused(wrong: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^bench: "):
        main(wrong)


def test_a_server_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda _: object())
    assert main(["--base-url", "http://127.0.0.1:9"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_without_sglang_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda _: None)
    assert main([]) == 1
    assert "SGLang is not installed" in capsys.readouterr().err


def test_the_picture_has_each_curve_within_its_frame() -> None:
    text = svg("a < b", "streams", "ms", [
        Curve("p50", [1.0, 4.0, 16.0], [3.0, 5.0, 40.0]), Curve("p99", [1.0, 16.0], [9.0, 400.0]),
    ])  # fmt: skip
    root = ElementTree.fromstring(text)  # our own
    names = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "streams", "ms", "p50", "p99", "16", "100"} <= set(names)
    points = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(points) == 5
    for point in points:
        assert 0 < float(point.attrib["cx"]) < 720
        assert 0 < float(point.attrib["cy"]) < 420


def test_one_point_is_a_picture_too() -> None:
    ElementTree.fromstring(svg("t", "x", "y", [Curve("c", [1.0], [3.0])]))


@pytest.mark.live
@pytest.mark.rare
def test_a_real_server_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import models
    from tests.live.conftest import LiveServer

    server: Any = LiveServer(tmp_path / "server", model="tiny", API_KEY="secret")
    try:
        server.wait_for("/readyz", 200)
        picture = tmp_path / "bench.svg"
        asked = ["--base-url", server.url, "--api-key", "secret", "--streams", "1,8",
                 "--input-tokens", "32", "--output-tokens", "32", "--svg", str(picture),
                 "--tokenizer", str(models.find("tiny"))]  # fmt: skip
        assert main(asked) == 0
        head, one, eight, last = capsys.readouterr().out.strip().splitlines()
        assert [row.split()[0] for row in (head, one, eight)] == ["streams", "1", "8"]
        assert float(eight.split()[2]) > float(one.split()[2]) > 0
        assert str(picture) in last
        ElementTree.fromstring(picture.read_text())
        assert main([*asked, "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["streams"] for row in rows] == [1, 8]
    finally:
        server.stop()
