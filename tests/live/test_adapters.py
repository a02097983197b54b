"""LoRA adapters on the real engine: what they answer, and that none is ever pulled away."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench import models
from tests.chaos.test_engine_processes import KINDS
from tests.live.conftest import LiveServer
from tests.support.adapters import write_adapter
from tests.support.machine import allowed

pytestmark = pytest.mark.live
ADMIN = {"authorization": "Bearer operator"}
SHAPES = {
    "tiny": {
        "self_attn.q_proj": (128, 64), "self_attn.v_proj": (128, 64), "mlp.down_proj": (256, 128),
    },
    "demo": {
        "self_attn.q_proj": (576, 576), "self_attn.k_proj": (576, 192),
        "self_attn.v_proj": (576, 192), "self_attn.o_proj": (576, 576),
        "mlp.gate_proj": (576, 1536), "mlp.up_proj": (576, 1536), "mlp.down_proj": (1536, 576),
    },
}  # fmt: skip
LAYERS = {"tiny": 1, "demo": 30}
NAMES = ("one", "two", "three")
PROMPTS = ("Hello", "The capital of France is", "a b c d e f g", "1 2 3 4")


def write(folder: Path, model: str, *, seed: int, rank: int = 8, **config: Any) -> Path:
    scale = 0.3 if model == "tiny" else 0.06
    layers = range(LAYERS[model])
    return write_adapter(
        folder, SHAPES[model], layers=layers, rank=rank, scale=scale, seed=seed, **config
    )


class Adapted(LiveServer):
    """A server with three adapters in its folder."""

    model = "tiny"
    adapters: Path

    def ask(self, adapter: str | None, prompt: str, *, tokens: int = 16) -> list[int]:
        params = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
        body = {"text": prompt, "sampling_params": params, "lora_path": adapter}
        answer = self.http.post("/generate", json=body)
        assert answer.status_code == 200, answer.text
        ids: list[int] = answer.json()["output_ids"]
        return ids

    def admin(self, verb: str, name: str, path: Path | None = None) -> httpx.Response:
        body = {"lora_name": name} | ({"lora_path": str(path)} if path else {})
        return self.http.post(f"/v1/{verb}_lora_adapter", json=body, headers=ADMIN)


def two_heads(folder: Path) -> Path:
    """The tiny model with its head in two, so that there is one for each of two parts."""
    shutil.copytree(models.find("tiny"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def adapted(folder: Path, model: str, *args: str, **more: str) -> Adapted:
    for seed, name in enumerate(NAMES):
        write(folder / "adapters" / name, model, seed=seed, use_rslora=name == "three")
    write(folder / "adapters" / "other", model, seed=9, rank=4)
    environment = {
        "LORA_MODULES": f"one={folder}/adapters/one", "LORA_FOLDER": str(folder / "adapters"),
        "ADMIN_API_KEY": "operator", "MAX_LORAS": "3", **more,
    }  # fmt: skip
    server = Adapted(folder, "--dtype", "float32", *args, model=model, **environment)
    server.model, server.adapters = model, folder / "adapters"
    return server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapted]:
    server = adapted(tmp_path_factory.mktemp("adapters"), "tiny")
    try:
        server.ready()
        yield server
    finally:
        server.stop()


def by_peft(path: Path, adapters: Path, prompt: str, tokens: int) -> dict[str | None, list[int]]:
    """What PEFT and Transformers answer, greedily."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt")

    def answer(generator: Any) -> list[int]:
        output = generator.generate(
            **ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
        )
        return output[0, ids["input_ids"].shape[1] :].tolist()  # type: ignore[no-any-return]

    answers: dict[str | None, list[int]] = {None: answer(base)}
    peft = PeftModel.from_pretrained(base, adapters / NAMES[0], adapter_name=NAMES[0])
    for name in NAMES[1:]:
        peft.load_adapter(adapters / name, adapter_name=name)
    for name in NAMES:
        peft.set_adapter(name)
        answers[name] = answer(peft)
    return answers


def test_each_answers_as_with_peft(server: Adapted) -> None:
    for prompt in PROMPTS[:2]:
        wanted = by_peft(models.find("tiny"), server.adapters, prompt, 12)
        assert len({tuple(ids) for ids in wanted.values()}) == 4  # they differ
        for name, ids in wanted.items():
            assert server.ask(name, prompt, tokens=12) == ids, name


@pytest.mark.rare
def test_each_answers_as_with_peft_on_the_demo_model(tmp_path: Path) -> None:
    server = adapted(tmp_path, "demo")
    try:
        server.ready()
        for prompt in PROMPTS[:3]:
            wanted = by_peft(models.find("demo"), server.adapters, prompt, 16)
            assert len({tuple(ids) for ids in wanted.values()}) == 4
            for name, ids in wanted.items():
                assert server.ask(name, prompt) == ids, name
    finally:
        server.stop()


@pytest.mark.rare
@pytest.mark.parametrize("kind", ["replicas", "parts"])
def test_each_of_several_schedulers_has_them(tmp_path: Path, kind: str) -> None:
    """Replicas, each of which loads for itself; parts of one model, each with its share."""
    path = two_heads(tmp_path / "model")
    server = adapted(tmp_path, "tiny", "--model-path", str(path), **KINDS[kind])
    try:
        server.ready()
        wanted = by_peft(path, server.adapters, PROMPTS[0], 12)
        for _ in range(3):  # by turns
            for name, ids in wanted.items():
                assert server.ask(name, PROMPTS[0], tokens=12) == ids, name
        path = write(tmp_path / "leaving", "tiny", seed=5)
        for _ in range(3):
            assert server.admin("load", "leaving", path).status_code == 200
            with ThreadPoolExecutor(8) as pool:
                streams = [
                    pool.submit(_stream, server, "leaving", 200, lambda: None) for _ in range(8)
                ]
                answers = [server.ask("leaving", PROMPTS[0], tokens=12) for _ in range(4)]
                assert server.admin("unload", "leaving").status_code == 200
                assert [stream.result() for stream in streams] == ["length"] * 8
            assert len({tuple(ids) for ids in answers}) == 1
            assert answers[0] not in wanted.values()
        broken = write_adapter(tmp_path / "broken", {"self_attn.q_proj": (128, 60)})
        assert server.admin("load", "broken", broken).status_code == 400
        assert server.ask("one", PROMPTS[0], tokens=12) == wanted["one"]
    finally:
        server.stop()


def test_a_mixed_batch_answers_as_each_alone(server: Adapted) -> None:
    asked = [(name, prompt) for prompt in PROMPTS for name in (None, *NAMES)]
    alone = [server.ask(*each) for each in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda each: server.ask(*each), asked))
    assert together == alone


def test_one_that_does_not_fit_is_an_error_and_the_server_goes_on(server: Adapted) -> None:
    broken = server.folder / "broken"
    q, v = "self_attn.q_proj", "self_attn.v_proj"
    for shapes, layers, rank in (
        ({q: (128, 60), v: (128, 64)}, 1, 8),
        ({q: (120, 64), v: (120, 64)}, 1, 8),
        ({v: (128, 64)}, 1, 8),  # the engine needs q beside v
        ({"self_attn.x_proj": (128, 128)}, 1, 8),
        ({q: (128, 64), v: (128, 64)}, 2, 8),  # a layer that the model has not
        ({q: (128, 64), v: (128, 64)}, 1, 32),  # MAX_LORA_RANK is 16
    ):
        write_adapter(broken, shapes, layers=range(layers), rank=rank)
        response = server.admin("load", "broken", broken)
        assert response.status_code == 400, response.text
        assert "The engine cannot take it" in response.text
    numbers = bytearray((write(broken, "tiny", seed=1) / "adapter_model.safetensors").read_bytes())
    numbers[-4:] = b"\x00\x00\xc0\x7f"  # NaN
    (broken / "adapter_model.safetensors").write_bytes(numbers)
    response = server.admin("load", "broken", broken)
    assert (response.status_code, "no numbers" in response.text) == (400, True)
    assert len(server.ask("one", "Hello", tokens=3)) == 3
    assert server.ask(None, "Hello", tokens=3)


def _stream(server: Adapted, adapter: str, tokens: int, begun: Callable[[], object]) -> str | None:
    """Read an answer to its end; the finish reason."""
    body = {
        "model": adapter, "prompt": "Hello", "max_tokens": tokens, "stream": True,
        "ignore_eos": True, "temperature": 0,
    }  # fmt: skip
    reason = None
    with server.http.stream("POST", "/v1/completions", json=body) as response:
        for no, line in enumerate(response.iter_lines()):
            if no == 0:
                begun()
            if line.startswith("data: {"):
                reason = json.loads(line[6:])["choices"][0]["finish_reason"] or reason
    return reason


def test_one_that_is_unloaded_while_its_streams_run_lets_them_end(server: Adapted) -> None:
    path = write(server.folder / "leaving", "tiny", seed=5)
    assert server.admin("load", "leaving", path).status_code == 200
    with ThreadPoolExecutor(51) as pool:
        all_run = threading.Barrier(51, timeout=allowed(60))
        begun = [threading.Thread(target=all_run.wait) for _ in range(50)]
        streams = [pool.submit(_stream, server, "leaving", 600, thread.start) for thread in begun]
        all_run.wait()
        unloading = pool.submit(server.admin, "unload", "leaving")
        ends = [stream.result() for stream in streams]
        assert ends == ["length"] * 50
        assert unloading.result().status_code == 200
    gone = server.http.post("/v1/completions", json={"model": "leaving", "prompt": "x"})
    assert gone.status_code == 404
    assert len(server.ask("one", "Hello", tokens=3)) == 3


def test_one_whose_clients_leave_is_unloaded_without_harm(server: Adapted) -> None:
    path = write(server.folder / "left", "tiny", seed=6)
    for round in range(10):
        assert server.admin("load", "left", path).status_code == 200
        body = {"model": "left", "prompt": "Hello", "max_tokens": 2000, "stream": True}
        streams = [server.http.stream("POST", "/v1/completions", json=body) for _ in range(4)]
        opened = [stream.__enter__() for stream in streams]
        for response in opened[: round % 5]:
            next(response.iter_lines())
        for stream in streams:
            stream.__exit__(None, None, None)
        assert server.admin("unload", "left").status_code == 200
    assert len(server.ask("two", "Hello", tokens=3)) == 3


def test_those_that_do_not_fit_at_once_take_turns(server: Adapted) -> None:
    """Three run at a time, and there are four."""
    names = (*NAMES, "other")
    alone = {name: server.ask(name, "Hello") for name in names}
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda no: server.ask(names[no % 4], "Hello"), range(16)))
    assert together == [alone[names[no % 4]] for no in range(16)]


@pytest.mark.rare
def test_two_hundred_loads_and_unloads_hold_no_stream_up_and_leave_nothing(
    server: Adapted,
) -> None:
    path = write(server.folder / "many", "tiny", seed=7)
    scheduler = server.child("sglang::scheduler")
    for _ in range(20):  # what is allocated once
        server.admin("load", "many", path)
        server.admin("unload", "many")
    before = scheduler.memory_info().rss
    without = _longest_gaps(server, lambda: time.sleep(10))
    gaps = _longest_gaps(server, lambda: _load_and_unload(server, path, 200))
    grown = scheduler.memory_info().rss - before
    print(f"longest gap without {without:.3f} s, with {gaps:.3f} s, grown {grown / 2**20:.1f} MB")
    assert gaps - without < allowed(0.05)
    assert grown < 30 * 2**20


def _load_and_unload(server: Adapted, path: Path, times: int) -> None:
    for _ in range(times):
        assert server.admin("load", "many", path).status_code == 200
        assert server.admin("unload", "many").status_code == 200


def _longest_gaps(server: Adapted, work: Any) -> float:
    """The longest standstill of four streams while `work` runs."""
    over = threading.Event()

    def watch(adapter: str) -> float:
        longest = 0.0
        while not over.is_set():
            body = {
                "model": adapter, "prompt": "Hello", "max_tokens": 3000, "stream": True,
                "ignore_eos": True,
            }  # fmt: skip
            with server.http.stream("POST", "/v1/completions", json=body) as response:
                at = None
                for line in response.iter_lines():
                    if not line:
                        continue
                    now = time.perf_counter()
                    longest = max(longest, now - (at or now))
                    at = now
                    if over.is_set():
                        break
        return longest

    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(watch, name) for name in ("one", "two", "one", "two")]
        try:
            work()
        finally:
            over.set()
        return max(stream.result() for stream in streams)
