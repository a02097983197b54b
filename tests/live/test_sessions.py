"""Twenty turns of Codex and of Claude Code on the real engine: what was said is found again.

The sessions were recorded from the real programs, and their texts replaced, see
tests/support/sessions.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import models
from tests.live.conftest import LiveServer
from tests.support import sessions

pytestmark = [pytest.mark.live, pytest.mark.rare]
CONTEXT = 131_072
TEMPLATE = """\
{%- if tools %}<|im_start|>system
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def long_model(folder: Path) -> Path:
    """The tiny model, with a context for agents and a template that writes calls."""
    folder.mkdir()
    tiny = models.find("tiny")
    for file in tiny.iterdir():
        (folder / file.name).symlink_to(file)
    for name, changed in (
        ("config.json", {"max_position_embeddings": CONTEXT}),
        ("tokenizer_config.json", {"model_max_length": CONTEXT}),
    ):
        content = json.loads((tiny / name).read_text()) | changed
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content))
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def test_each_turn_of_an_agent_finds_the_one_before_it_in_the_cache(
    start: Callable[..., LiveServer], tmp_path: Path
) -> None:
    server = start(
        "--model-path", str(long_model(tmp_path / "long")), "--dtype", "float32",
        model=None, SERVED_MODEL_NAME="local-model", TOOL_CALL_PARSER="hermes",
        KV_POOL_TOKENS=str(2 * CONTEXT),
    ).ready()  # fmt: skip
    for name in ("codex", "claude_code"):
        path, bodies = sessions.read(name)
        assert len(bodies) >= 20
        shares: list[float] = []
        before = 0
        for body in bodies:
            asked = body | {"stream": False, "temperature": 0}
            asked["max_tokens" if path == "/v1/messages" else "max_output_tokens"] = 4
            answer = server.http.post(path, json=asked)
            assert answer.status_code == 200, answer.text
            prompt, cached = _counts(answer.json()["usage"])
            if before:
                shares.append(cached / before)
            before = prompt
        print(f"{name}: {len(bodies)} turns, {before} tokens at the end, least {min(shares):.4f}")
        assert min(shares) >= 0.99, shares


def _counts(usage: dict[str, Any]) -> tuple[int, int]:
    """Of a prompt, and of what of it was cached."""
    if "input_tokens_details" in usage:
        return usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]
    cached = usage["cache_read_input_tokens"]
    return usage["input_tokens"] + usage["cache_creation_input_tokens"] + cached, cached
