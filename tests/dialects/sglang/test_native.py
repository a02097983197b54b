"""SGLang's native API, field by field and route by route, as docs/api.md has it.

The document's tables are the list. What they call `works` is tried on the scripted engine here and
on the real one in tests/live/test_native.py; what they refuse is refused here, by its name.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from app.dialects.sglang import unsupported
from app.dialects.sglang.fields import GenerateBody, GenerateSampling
from app.engine.scripted import PICTURE
from tests.dialects.openai.test_pictures import url
from tests.dialects.test_pictures import marked
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

ROOT = Path(__file__).parents[3]


def tables() -> Iterator[list[list[str]]]:
    """The cells of each table of the section, without its head."""
    text = (ROOT / "docs/api.md").read_text()
    body = text.partition("\n## SGLang's native API\n")[2].partition("\n## ")[0]
    for table in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE):
        yield [
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in table.splitlines()[2:]
        ]


def table(no: int) -> dict[str, tuple[str, str]]:
    """Name -> (outcome, what else the row says)."""
    rows: dict[str, tuple[str, str]] = {}
    for names, outcome, more in list(tables())[no]:
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in rows, name
            rows[name] = (outcome, more)
    return rows


FIELDS, SAMPLING, ROUTES = (table(no) for no in range(3))


def those(rows: dict[str, tuple[str, str]], outcome: str) -> set[str]:
    return {name for name, (each, _) in rows.items() if each == outcome}


# -- the document and the code -------------------------------------------------------------------


def test_the_document_has_the_fields_that_the_code_honours_refuses_and_ignores() -> None:
    assert those(FIELDS, "works") == set(GenerateBody.model_fields)
    assert those(FIELDS, "refused") == set(unsupported.FIELDS)
    assert those(FIELDS, "ignored") == set(unsupported.IGNORED)
    assert those(SAMPLING, "works") == set(GenerateSampling.model_fields)
    refused = set(unsupported.SAMPLING) | unsupported.INTERNAL_SAMPLING
    assert those(SAMPLING, "refused") == refused


def test_the_document_says_why() -> None:
    for why, names in unsupported.REASONS.items():
        assert {FIELDS[name] for name in names} == {("refused", why)}
    for why, names in unsupported.SAMPLING_REASONS.items():
        assert {SAMPLING[name] for name in names} == {("refused", why)}
    for name, why in unsupported.IGNORED.items():
        assert FIELDS[name] == ("ignored", why)


# -- the document and SGLang ---------------------------------------------------------------------


@pytest.mark.full
def test_every_field_of_the_installed_sglang_has_a_row() -> None:
    assert _declared("srt/managers/io_struct.py", "GenerateReqInput") == set(FIELDS)
    assert _declared("srt/sampling/sampling_params.py", "SamplingParams") == set(SAMPLING)


@pytest.mark.full
def test_every_route_of_the_installed_sglang_has_a_row() -> None:
    assert _routes() == set(ROUTES)


def _declared(module: str, name: str) -> set[str]:
    [defined] = [
        node for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == name
    ]
    return {
        node.target.id
        for node in defined.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _routes() -> set[str]:
    """The paths of the decorators; of one that a variable can change, its default."""
    paths = set()
    for node in ast.walk(_tree("srt/entrypoints/http_server.py")):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("app."):
                path = call.args[0] if call.args else None
                if isinstance(path, ast.Call):
                    path = path.args[1]
                if isinstance(path, ast.Constant) and str(path.value).startswith("/"):
                    paths.add(str(path.value))
    return paths


def _tree(module: str) -> ast.Module:
    spec = find_spec("sglang")
    assert spec is not None
    assert spec.origin is not None
    return ast.parse((Path(spec.origin).parent / module).read_text())


# -- what works ----------------------------------------------------------------------------------

PARAMETERS: dict[str, tuple[Any, Callable[[Any], Any], Any]] = {
    "max_new_tokens": (7, lambda s: s.max_tokens, 7),
    "min_new_tokens": (2, lambda s: s.min_tokens, 2),
    "temperature": (0.5, lambda s: s.temperature, 0.5),
    "top_p": (0.5, lambda s: s.top_p, 0.5),
    "top_k": (3, lambda s: s.top_k, 3),
    "min_p": (0.1, lambda s: s.min_p, 0.1),
    "frequency_penalty": (1, lambda s: s.frequency_penalty, 1),
    "presence_penalty": (-1, lambda s: s.presence_penalty, -1),
    "repetition_penalty": (1.1, lambda s: s.repetition_penalty, 1.1),
    "stop": ("END", lambda s: s.stop, ("END",)),
    "stop_token_ids": ([5], lambda s: s.stop_token_ids, (5,)),
    "ignore_eos": (True, lambda s: s.ignore_eos, True),
    "skip_special_tokens": (False, lambda s: s.skip_special_tokens, False),
    "no_stop_trim": (True, lambda s: s.keep_stop, True),
    "logit_bias": ({"7": -100}, lambda s: s.logit_bias, {"7": -100}),
    "sampling_seed": (11, lambda s: s.seed, 11),
    "json_schema": ('{"type": "object"}', lambda s: json.loads(s.grammar.text)["type"], "object"),
    "regex": ("[a-z]+", lambda s: (s.grammar.kind, s.grammar.text), ("regex", "[a-z]+")),
    "ebnf": ('root ::= "a"', lambda s: s.grammar.kind, "ebnf"),
    "structural_tag": (
        '{"format": {"type": "any_text"}}', lambda s: s.grammar.kind, "structural_tag",
    ),
}  # fmt: skip
"""Each parameter but `n`: its value, where it arrives, and what arrives."""


def test_every_sampling_parameter_that_works_is_tried() -> None:
    assert {*PARAMETERS, "n"} == those(SAMPLING, "works")


@pytest.mark.parametrize("name", PARAMETERS)
async def test_a_sampling_parameter_reaches_the_engine(name: str) -> None:
    value, arrived, expected = PARAMETERS[name]
    engine = ScriptedEngine("x")
    async with serve(engine, ALLOW_GRAMMARS="true") as running:
        body = {"text": "hi", "sampling_params": {name: value}}
        answer = await running.client.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    [(_, sampling, _, _)] = engine.calls
    assert arrived(sampling) == expected


async def test_n_is_so_many_answers() -> None:
    async with serve(ScriptedEngine("x")) as running:
        body = {"text": "hi", "sampling_params": {"n": 3}}
        answer = await running.client.post("/generate", json=body)
    assert [each["text"] for each in answer.json()] == ["x", "x", "x"]


async def generated(engine: ScriptedEngine, **fields: Any) -> Any:
    async with serve(engine) as running:
        answer = await running.client.post("/generate", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.text if fields.get("stream") else answer.json()


async def _text() -> bool:
    engine = ScriptedEngine("x")
    await generated(engine, text=["ab", "c"])
    return [call[0] for call in engine.calls] == [[97, 98], [99]]


async def _input_ids() -> bool:
    engine = ScriptedEngine("x")
    await generated(engine, input_ids=[[97, 98], [99]])
    return [call[0] for call in engine.calls] == [[97, 98], [99]]


async def _image_data() -> bool:
    engine = marked()
    await generated(engine, text=f"a{PICTURE}b", image_data=url())
    return engine.decode(engine.calls[0][0]) == "a" + 4 * PICTURE + "b"


async def _sampling_params() -> bool:
    engine = ScriptedEngine("x")
    await generated(engine, text="a", sampling_params=[{"max_new_tokens": 3}])
    return engine.calls[0][1].max_tokens == 3


async def _stream() -> bool:
    return (await generated(ScriptedEngine("x"), text="a", stream=True)).endswith("[DONE]\n\n")


async def _return_logprob() -> bool:
    meta = (await generated(ScriptedEngine("x"), text="a", return_logprob=True))["meta_info"]
    return len(meta["output_token_logprobs"]) == 1 and meta["input_token_logprobs"] == []


async def _logprob_start_len() -> bool:
    fields = {"text": "abc", "return_logprob": True, "logprob_start_len": 1}
    meta = (await generated(ScriptedEngine("x"), **fields))["meta_info"]
    return len(meta["input_token_logprobs"]) == 2


async def _top_logprobs_num() -> bool:
    fields = {"text": "abc", "return_logprob": True, "top_logprobs_num": 2}
    meta = (await generated(ScriptedEngine("x"), **fields))["meta_info"]
    return len(meta["output_top_logprobs"]) == 1


async def _return_text_in_logprobs() -> bool:
    fields = {"text": "a", "return_logprob": True, "return_text_in_logprobs": True}
    meta = (await generated(ScriptedEngine("x"), **fields))["meta_info"]
    return bool(meta["output_token_logprobs"][0][2] == "x")


async def _cache_salt() -> bool:
    engine = ScriptedEngine("x")
    for salt in ("one", "two", ["one"]):
        await generated(engine, text="a", cache_salt=salt)
    one, two, again = engine.scopes
    return one != two and one == again and bool(one)


async def _lora_path() -> bool:
    """The rest is in tests/web/test_adapters.py."""
    async with serve(ScriptedEngine("x")) as running:
        answer = await running.client.post("/generate", json={"text": "a", "lora_path": "none"})
    return (answer.status_code, answer.json()["error"]["param"]) == (404, "lora_path")


WORKS = {
    "text": _text, "input_ids": _input_ids, "image_data": _image_data,
    "sampling_params": _sampling_params, "stream": _stream, "return_logprob": _return_logprob,
    "logprob_start_len": _logprob_start_len, "top_logprobs_num": _top_logprobs_num,
    "return_text_in_logprobs": _return_text_in_logprobs, "cache_salt": _cache_salt,
    "lora_path": _lora_path,
}  # fmt: skip


def test_every_field_that_works_is_tried() -> None:
    assert set(WORKS) == those(FIELDS, "works")


@pytest.mark.parametrize("name", WORKS)
async def test_a_field_works(name: str) -> None:
    assert await WORKS[name]()


# -- what is refused or ignored ------------------------------------------------------------------

OTHER = (True, "x", ["x"], {"a": 1}, 1, 1.5, [[0.1]])
"""Values of every type. Each but those that change nothing must be refused."""


async def test_a_refused_field_is_named() -> None:
    engine = ScriptedEngine("x")
    async with serve(engine) as running:
        for name, harmless in unsupported.FIELDS.items():
            for value in OTHER:
                answer = await running.client.post("/generate", json={"text": "a", name: value})
                error = answer.json()["error"]
                assert (answer.status_code, error["param"]) == (400, name), (name, value)
                assert error["code"] == "unsupported_parameter"
                assert f"'{name}'" in error["message"]
                assert FIELDS[name][1].replace("`", "") in error["message"]
            for value in (None, *harmless):
                answer = await running.client.post("/generate", json={"text": "a", name: value})
                assert answer.status_code == 200, (name, value)


async def test_a_refused_sampling_parameter_is_named() -> None:
    async with serve(ScriptedEngine("x")) as running:
        for name in those(SAMPLING, "refused"):
            for value in OTHER:
                if value in unsupported.SAMPLING.get(name, ()):
                    continue
                body = {"text": "a", "sampling_params": {name: value}}
                answer = await running.client.post("/generate", json=body)
                error = answer.json()["error"]
                assert (answer.status_code, error["param"]) == (400, f"sampling_params.{name}")
                assert error["code"] == "unsupported_parameter"


async def test_an_ignored_field_changes_nothing_and_reaches_no_engine() -> None:
    engine = ScriptedEngine("x")
    async with serve(engine) as running:
        for name in unsupported.IGNORED:
            for value in OTHER:
                answer = await running.client.post("/generate", json={"text": "a", name: value})
                assert answer.status_code == 200, (name, value)
    assert all(id != "x" for _, _, id, _ in engine.calls)


# -- routes --------------------------------------------------------------------------------------


async def test_a_route_is_there_or_is_not() -> None:
    async with serve(ScriptedEngine("x"), ADMIN_API_KEY="k") as running:
        running.client.headers["authorization"] = "Bearer k"
        for path, (outcome, _) in ROUTES.items():
            filled = re.sub(r"\{[^}]*\}", "default", path)
            answers = [
                await running.client.request(method, filled, content=b"{}")
                for method in ("GET", "POST")
            ]
            there = any('"unknown_url"' not in answer.text for answer in answers)
            assert there == (outcome == "works"), path
            assert there or {answer.status_code for answer in answers} == {404}
