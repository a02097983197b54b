"""SGLang's vectors as ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.engine.base import Embedding
from app.engine.sglang.endings import aborted


def vector_of(result: dict[str, Any]) -> Embedding:
    """SGLang's answer to one prompt. Raises as `aborted` says."""
    finish = result["meta_info"].get("finish_reason") or {}
    if finish.get("type") == "abort" or "embedding" not in result:
        raise aborted(finish)
    # SGLang normalises in the model's own precision, which may be half.
    vector = np.asarray(result["embedding"], dtype=np.float32)
    length = float(np.linalg.norm(vector.astype(np.float64))) or 1.0
    return Embedding((vector / np.float32(length)).tolist(), result["meta_info"]["prompt_tokens"])
