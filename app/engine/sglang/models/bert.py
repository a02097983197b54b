"""BERT and XLM-RoBERTa encoders that pool as the model folder asks.

Replaces `BertModel`, `Contriever` and `XLMRobertaModel` of sglang 0.5.23 (`srt/models/bert.py`,
`srt/models/roberta.py`), which always take the first token's vector. SGLang imports every module of
the package named by SGLANG_EXTERNAL_MODEL_PACKAGE (`srt/models/registry.py`) and prefers the
classes in `EntryClass`. Drop a class when SGLang's own reads `1_Pooling/config.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang.srt.layers.pooler import Pooler, PoolingType
from sglang.srt.models import bert, roberta
from sglang.srt.runtime_context import get_model

from app.engine.sglang import pooling

_TYPES = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS, "last": PoolingType.LAST}


class AskedPooler(Pooler):  # type: ignore[misc]
    """SGLang's pooler, which also normalises, with the pooling of the model being loaded."""

    def __init__(self) -> None:
        pools = pooling.check(Path(get_model().model_path))
        super().__init__(_TYPES[pools.mode], normalize=True)

    def forward(self, hidden_states: Any, forward_batch: Any) -> Any:
        # SGLang's mean is a difference of running sums over the whole batch. Among 16,000 tokens
        # its cosine to the true mean went down to 0.92 in float16 and to 0.38 in bfloat16.
        return super().forward(hidden_states.float(), forward_batch)


class BertModel(bert.BertModel):  # type: ignore[misc]
    def __init__(self, *, config: Any, use_bert_pooler: bool = False, **rest: Any) -> None:
        super().__init__(config=_complete(config), use_bert_pooler=use_bert_pooler, **rest)
        if not use_bert_pooler:
            self.pooler = AskedPooler()


class Contriever(BertModel):
    pass


class XLMRobertaModel(roberta.XLMRobertaModel):  # type: ignore[misc]
    def __init__(self, *, config: Any, sparse_head: str | None = None, **rest: Any) -> None:
        super().__init__(config=_complete(config), sparse_head=sparse_head, **rest)
        if sparse_head is None:
            self.pooler = AskedPooler()


def _complete(config: Any) -> Any:
    """transformers 5 no longer writes this field; SGLang 0.5.23 does not start without it."""
    if not hasattr(config, "position_embedding_type"):
        config.position_embedding_type = "absolute"
    return config


EntryClass: list[Any] = [BertModel, Contriever, XLMRobertaModel]
