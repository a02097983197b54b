"""The names of the model: in requests, and in OpenAI's list."""

from __future__ import annotations

from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


async def test_the_model_answers_to_its_names_only() -> None:
    async with serve(ScriptedEngine("x"), SERVED_MODEL_NAME="llama,gpt-4o") as running:
        for requested, answered in [
            ("llama", "llama"), ("gpt-4o", "gpt-4o"), ("sglang", "llama"), ("default", "llama"),
            (None, "llama"),
        ]:  # fmt: skip
            assert (await running.chat(model=requested)).json()["model"] == answered
        refused = await running.chat(model="gpt-5")
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "model_not_found"
        cards = (await running.client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["llama", "gpt-4o"]


async def test_a_model_named_by_its_folder_is_found() -> None:
    async with serve(ScriptedEngine("x"), MODEL_PATH="/models/llama") as running:
        card = await running.client.get("/v1/models/%2Fmodels%2Fllama")
    assert card.json()["id"] == "/models/llama"


async def test_the_model_list_has_what_benchmarks_read():
    async with serve(ScriptedEngine("x"), SERVED_MODEL_NAME="llama,alias") as running:
        first, second = (await running.client.get("/v1/models")).json()["data"]
    assert (first["id"], first["owned_by"], first["max_model_len"]) == ("llama", "sglang", 1000)
    assert (second["id"], second["root"]) == ("alias", "llama")


async def test_with_a_star_any_name_is_one_of_the_model() -> None:
    async with serve(ScriptedEngine("x"), SERVED_MODEL_NAME="llama,*") as running:
        for requested in ("llama", "gpt-3.5-turbo", "tgi", "*"):
            assert (await running.chat(model=requested)).json()["model"] == "llama"
        cards = (await running.client.get("/v1/models")).json()["data"]
    assert [card["id"] for card in cards] == ["llama"]


async def test_a_star_alone_leaves_the_model_the_name_of_its_path() -> None:
    async with serve(ScriptedEngine("x"), SERVED_MODEL_NAME="*", MODEL_PATH="org/m") as running:
        assert (await running.chat(model="dummy")).json()["model"] == "org/m"


async def test_an_unknown_name_is_answered_with_those_that_are_served() -> None:
    async with serve(ScriptedEngine("x"), SERVED_MODEL_NAME="llama,gpt-4o") as running:
        message = (await running.chat(model="dummy")).json()["error"]["message"]
    assert "`llama`, `gpt-4o`" in message
    assert "sglang and default" in message
    assert "SERVED_MODEL_NAME" in message
