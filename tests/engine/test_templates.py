"""Twenty turns of Codex and of Claude Code through the chat templates of seventy models.

Each turn's prompt begins with the one before it, and the model reads all that was said. The
templates are llama.cpp's collection, as `make test-templates` takes it from llama-cpp-python's
source archive; they are not part of this project.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import pytest

FOLDER = os.environ.get("CHAT_TEMPLATES")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(FOLDER is None, reason="`make test-templates` fetches them"),
]
CHANGES = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "its instructions stand at the end of the prompt",
    "Mistral-Small-3.2-24B-Instruct-2506": "tools stand before the user's last message",
    "mistralai-Mistral-Nemo-Instruct-2407": "tools stand before the user's last message",
    "Qwen3.5-4B": "thoughts of turns before the user's last message are left out",
    "StepFun3.5-Flash": "the same",
    "deepseek-ai-DeepSeek-V3.2": "the same",
    "openai-gpt-oss-120b": "the same, and text beside a call counts as a thought",
}
"""Templates that write earlier turns otherwise in a later prompt, as their models were trained."""
LOSES = {
    "Mistral-Small-3.2-24B-Instruct-2506": {"text beside a call"},
    "mistralai-Mistral-Nemo-Instruct-2407": {"text beside a call"},
    "openai-gpt-oss-120b": {"text beside a call"},
}
REFUSES = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "each property must have a description",
    "fireworks-ai-llama-3-firefunction-v2": "wants a variable of its own",
    "llama-cpp-deepseek-r1": "uses what Jinja of Python refuses",
}


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, Any]]]:
    check = Path(__file__).with_name("templates_check.py")
    done = subprocess.run(
        [sys.executable, str(check), str(FOLDER)], capture_output=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:].decode()
    lines = [orjson.loads(line) for line in done.stdout.splitlines() if line.startswith(b'{"temp')]
    by_template: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        by_template[line["template"]].append(line)
    assert len(by_template) >= 60
    return by_template


def test_each_prompt_begins_with_the_one_of_the_turn_before(
    found: dict[str, list[dict[str, Any]]],
) -> None:
    least = {
        name: min(line.get("least", 0) for line in lines)
        for name, lines in found.items()
        if name not in REFUSES
    }
    for name, share in sorted(least.items(), key=lambda pair: pair[1]):
        print(f"{share:.4f}  {name}  {CHANGES.get(name, '')}")
    kept = [name for name, share in least.items() if share >= 0.99]
    print(f"{len(kept)} of {len(found)} keep at least 99 % of each prompt")
    assert {name for name in least if name not in kept} <= CHANGES.keys()
    assert len(kept) >= 40


def test_the_model_reads_all_that_was_said(found: dict[str, list[dict[str, Any]]]) -> None:
    lost = {name: {each for line in lines for each in line.get("lost", ())}
            for name, lines in found.items()}  # fmt: skip
    assert {name: what for name, what in lost.items() if what - LOSES.get(name, set())} == {}


def test_no_template_refuses_an_agent(found: dict[str, list[dict[str, Any]]]) -> None:
    refused = {
        name: line["refused"]
        for name, lines in found.items()
        for line in lines
        if "refused" in line
    }
    assert refused.keys() <= REFUSES.keys(), refused
