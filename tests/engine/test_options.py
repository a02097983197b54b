"""Settings as SGLang's options: what the operator must not set."""

from __future__ import annotations

import pytest

from app.engine.sglang.options import check_reserved
from app.errors import ConfigError


@pytest.mark.parametrize("name", ["incremental_streaming_output", "model_path", "device"])
def test_engine_args_cannot_undo_what_the_adapter_needs(name: str) -> None:
    with pytest.raises(ConfigError, match=f"ENGINE_ARGS: {name} cannot be set here"):
        check_reserved({name: False})
