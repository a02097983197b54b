"""Embeddings of the real engine against those of the model's own library."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from app.engine import demo
from tests.live.conftest import LiveServer

pytestmark = pytest.mark.live
REFERENCE = json.loads((Path(__file__).parent / "embeddings_reference.json").read_text())
SENTENCES: list[str] = REFERENCE["sentences"]
PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    model = demo.ensure(demo.default_cache(), demo.EMBEDDING, say=print)
    folder = tmp_path_factory.mktemp("embeddings")
    server = LiveServer(folder, model=None, MODEL_PATH=str(model), SERVED_MODEL_NAME="minilm")
    try:
        yield server.ready()
    finally:
        server.stop()


def _vectors(server: LiveServer, input: Any, **fields: Any) -> list[list[float]]:
    answer = server.http.post(PATH, json={"input": input, **fields}).raise_for_status().json()
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    return [each["embedding"] for each in answer["data"]]


def _cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_similarities_equal_those_of_sentence_transformers(embedder: LiveServer) -> None:
    vectors = _vectors(embedder, SENTENCES)
    worst = max(
        abs(_cosine(vectors[i], vectors[j]) - REFERENCE["cosines"][i][j])
        for i in range(len(SENTENCES))
        for j in range(len(SENTENCES))
    )
    print(f"worst difference of a cosine: {worst:.6f}")
    assert worst < 0.002
    assert all(abs(math.hypot(*vector) - 1) < 1e-5 for vector in vectors)


def test_texts_lists_and_token_ids_give_the_same_vectors_in_order(embedder: LiveServer) -> None:
    together = _vectors(embedder, SENTENCES[:4])
    alone = [_vectors(embedder, sentence)[0] for sentence in SENTENCES[:4]]
    ids = [
        embedder.http.post("/tokenize", json={"prompt": sentence}).json()["tokens"]
        for sentence in SENTENCES[:4]
    ]
    by_ids = _vectors(embedder, ids)
    for vectors in (alone, by_ids):
        assert all(_cosine(a, b) > 0.9999 for a, b in zip(together, vectors, strict=True))


def test_the_sdk_gets_the_same_floats_as_json_and_as_base64(embedder: LiveServer) -> None:
    client = OpenAI(base_url=f"{embedder.url}/v1", api_key="x", max_retries=0)
    packed = client.embeddings.create(model="minilm", input=SENTENCES[:2])  # base64 on the wire
    plain = client.embeddings.create(model="minilm", input=SENTENCES[:2], encoding_format="float")
    assert packed.usage.prompt_tokens == plain.usage.total_tokens > 0
    for a, b in zip(packed.data, plain.data, strict=True):
        assert len(a.embedding) == 384
        assert _cosine(a.embedding, b.embedding) > 0.9999
    raw = embedder.http.post(
        PATH, json={"input": "a", "model": "minilm", "encoding_format": "base64"}
    ).json()["data"][0]["embedding"]
    assert len(struct.unpack("<384f", base64.b64decode(raw))) == 384
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "x"}])
    assert refused.value.param == "model"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [-1]}, "input"),
        ({"input": [[1], [30522]]}, "input[1]"),
        ({"input": "word " * 400}, "input"),
        ({"input": "a", "dimensions": 100}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": ["a"] * 2049}, "input"),
    ],
)
def test_bad_input_is_refused_and_harms_nothing(
    embedder: LiveServer, body: dict[str, Any], param: str
) -> None:
    before = embedder.engine_pids()
    answer = embedder.http.post(PATH, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert _vectors(embedder, "still here")
    assert embedder.engine_pids() == before
