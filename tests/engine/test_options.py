"""Settings as SGLang's options: what the operator must not set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.engine.sglang import options


@pytest.mark.parametrize(
    ("has_bfloat16", "config", "given", "dtype"),
    [
        (False, "{}", {}, "float32"),
        (False, "{}", {"dtype": "auto"}, "float32"),
        (False, "{}", {"dtype": "bfloat16"}, "bfloat16"),
        (False, "{}", {"quantization": "awq"}, None),
        (False, '{"quantization_config": {}}', {}, None),
        (True, "{}", {}, None),
        (True, "{}", {"dtype": "auto"}, "auto"),
    ],
)
def test_a_cpu_without_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    has_bfloat16: bool,
    config: str,
    given: dict[str, Any],
    dtype: str | None,
) -> None:
    monkeypatch.setattr(options, "_has_bfloat16", lambda: has_bfloat16)
    (tmp_path / "config.json").write_text(config)
    passed = {"model_path": str(tmp_path), **given}
    options.choose_dtype(passed)
    assert passed.get("dtype") == dtype
