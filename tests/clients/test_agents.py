"""Programs for the command line: what they print, and what they do with a call of a tool.

They choose tools themselves, so that calls come from the server that writes them (`model`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.environments import NODE, node, python, run

pytestmark = pytest.mark.clients
HELLO = "You said: hello"
COMMAND = "echo hi | tee made.txt"


def beside(environment: str, program: str) -> str:
    """A program that is installed beside an environment's interpreter."""
    return str(python(environment).with_name(program))


# -- aider ---------------------------------------------------------------------------------------

EDIT = """numbers.py
```python
<<<<<<< SEARCH
one = 1
=======
one = 2
>>>>>>> REPLACE
```"""


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_aider_edits_a_file(server: str, tmp_path: Path, stream: str) -> None:
    file = tmp_path / "numbers.py"
    file.write_text("one = 1\n")
    out = run(
        [
            beside("aider", "aider"),
            *("--model", "openai/scripted", "--edit-format", "diff", stream),
            *("--openai-api-base", f"{server}/v1", "--openai-api-key", "none"),
            *("--yes-always", "--no-git", "--no-check-update", "--analytics-disable"),
            *("--no-show-model-warnings", "--no-pretty", "--message", EDIT, file.name),
        ],
        tmp_path,
    )
    assert "Applied edit to numbers.py" in out
    assert file.read_text() == "one = 2\n"


# -- llm -----------------------------------------------------------------------------------------

WEATHER = """
def get_weather(city: str) -> str:
    return f"sunny in {city}"
"""


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_llm_answers_streams_follows_a_schema_and_calls(
    server: str, model: str, tmp_path: Path, responses: bool
) -> None:
    entries = [
        {
            "model_id": name,
            "model_name": "scripted",
            "api_base": f"{url}/v1",
            "supports_schema": True,
            "supports_tools": True,
            "responses": responses,
        }
        for name, url in (("local", server), ("calling", model))
    ]
    # JSON is YAML, too.
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(entries))

    def said(*arguments: str) -> str:
        program = beside("agents", "llm")
        return run([program, *arguments], tmp_path, LLM_USER_PATH=str(tmp_path)).rstrip("\n")

    assert said("-m", "local", "hello") == HELLO
    assert said("-m", "local", "--no-stream", "hello") == HELLO
    assert json.loads(said("-m", "local", "--schema", "city str", "hello")) == {"city": "text"}
    call = 'call get_weather {"city": "Oslo"}'
    assert said("-m", "calling", "--functions", WEATHER, call) == "You said: sunny in Oslo"


# -- opencode ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "provider", ["@ai-sdk/openai-compatible", "@ai-sdk/openai", "@ai-sdk/anthropic"]
)
def test_opencode_answers_and_runs_a_command(model: str, tmp_path: Path, provider: str) -> None:
    node()
    limits = {"context": 32768, "output": 4096}
    local = {
        "npm": provider,
        "options": {"baseURL": f"{model}/v1", "apiKey": "none"},
        "models": {"scripted": {"limit": limits}},
    }
    config = {
        "model": "local/scripted",
        "small_model": "local/scripted",
        "share": "disabled",
        "provider": {"local": local},
    }
    (tmp_path / "opencode.json").write_text(json.dumps(config))

    def said(prompt: str) -> str:
        return run([str(NODE / ".bin/opencode"), "run"], tmp_path, prompt)

    assert HELLO in said("hello")
    arguments = json.dumps({"command": COMMAND, "description": "Say hi"})
    assert "You said: hi" in said(f"call bash {arguments}")
    assert (tmp_path / "made.txt").read_text() == "hi\n"


# -- Continue ------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_continue_answers_and_runs_a_command(model: str, tmp_path: Path, provider: str) -> None:
    entry = {
        "name": "scripted",
        "provider": provider,
        "model": "scripted",
        "apiBase": f"{model}/v1",
        "apiKey": "none",
        "roles": ["chat"],
    }
    config = tmp_path / "config.yaml"
    config.write_text(
        json.dumps({"name": "local", "version": "0.0.1", "schema": "v1", "models": [entry]})
    )

    def said(prompt: str) -> str:
        program = [str(node()), str(NODE / "@continuedev/cli/dist/cn.js")]
        return run([*program, "-p", prompt, "--auto", "--config", str(config)], tmp_path)

    assert said("hello").strip() == HELLO
    call = f"call Bash {json.dumps({'command': COMMAND})}"
    assert said(call).strip() == "You said: hi"
    assert (tmp_path / "made.txt").read_text() == "hi\n"


# -- lm-eval -------------------------------------------------------------------------------------

TASK = {
    "task": "repeated",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "questions.json"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 32},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
QUESTIONS = [{"question": each, "answer": f"You said: {each}"} for each in ("hello", "goodbye")]


@pytest.mark.parametrize(
    ("kind", "path", "more"),
    [
        ("local-chat-completions", "chat/completions", ["--apply_chat_template"]),
        ("local-completions", "completions", []),
    ],
)
def test_lm_eval_scores_what_is_generated(
    server: str, tmp_path: Path, kind: str, path: str, more: list[str]
) -> None:
    (tmp_path / "repeated.yaml").write_text(json.dumps(TASK))
    (tmp_path / "questions.json").write_text("\n".join(map(json.dumps, QUESTIONS)))
    arguments = f"model=scripted,base_url={server}/v1/{path},tokenizer_backend=None"
    run(
        [
            beside("agents", "lm_eval"),
            *("--model", kind, "--model_args", f"{arguments},tokenized_requests=False"),
            *("--include_path", ".", "--tasks", "repeated", "--output_path", "out", *more),
        ],
        tmp_path,
    )
    (results,) = tmp_path.glob("out/**/results_*.json")
    assert json.loads(results.read_text())["results"]["repeated"]["exact_match,none"] == 1
