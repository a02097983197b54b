"""Secrets are shown nowhere, however deep they lie."""

from __future__ import annotations

import json
import time

import pytest

from app.settings.secrets import hidden, hidden_start, redacted


@pytest.mark.parametrize(
    "text",
    [
        "python serve.py --api-key SECRET --port 1",
        "python serve.py --admin-api-key=SECRET",
        "python serve.py --api_key sk-SECRET",
        "python serve.py --api-key SECRET1 SECRET2 --port 1",
        "python serve.py --ssl_keyfile_password SECRET",
        "postgresql://u:SECRET/x@h/db",
        "postgresql://u@corp:a@SECRET@h/db",
        "http://user:SECRET@host/v1",
        "http://host/x://u:SECRET@host://v:SECRET/@host",
        "http://host/?next=http://user:SECRET@host",
        "--port=1 ---api-key SECRET",
        "x--api-key= SECRET\nSECRET",
        "http://host/v1?api_key=SECRET&version=2",
        "s3://bucket/model?X-Amz-Signature=SECRET",
        "--base-url http://host/?sig=SECRET --port 1",
        '{"aws": {"secret_key": "SECRET"}}',
        '{"stores": [{"url": "http://u:SECRET@host"}, {"password": "SECRET"}]}',
        '{"api_key": "SECRET", "deep": ' + "[" * 50_000,
        ' {"nested": "{\\"api_key\\": \\"SECRET\\"}"}',
    ],
)
def test_a_secret_in_a_text_is_not_shown(text: str) -> None:
    shown = hidden(text)
    assert "SECRET" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "SECRET"},
        {"hf_token": "SECRET"},
        {"loader": {"aws": {"secret_key": "SECRET"}}},
        {"loader": '{"aws": {"secret_key": "SECRET"}}'},
        {"stores": [{"credentials": "SECRET"}, ("http://u:SECRET@host",)]},
        {"headers": {"Authorization": "Bearer SECRET"}},
        {"key": {"nested": "SECRET"}},
    ],
)
def test_a_secret_in_options_is_not_shown(options: dict[str, object]) -> None:
    assert "SECRET" not in json.dumps(redacted(options))


def test_everything_else_is_shown() -> None:
    options = {
        "site": "https://host:1/a/b",
        "max_total_tokens": 5, "tokenizer_path": "a/b", "api_key": None, "name": "key",
        "nested": {"sizes": [1, 2.5, True], "url": "https://host/v1"},
    }  # fmt: skip
    assert redacted(options) == options
    assert hidden("--tokenizer-path a/b --port 1") == "--tokenizer-path a/b --port 1"
    assert hidden("{not json") == "{not json"


@pytest.mark.parametrize(
    "piece",
    ["-", "--a", "--api-key", "--api-key ", "--api-key= \n", "://", "://:", "://a@", "://?a=", " ",
     "://u:p@h/?k=v ", "@", "="],
)  # fmt: skip
def test_the_time_to_hide_secrets_grows_with_the_text_and_no_faster(piece: str) -> None:
    def cost_s(chars: int) -> float:
        text = (piece * chars)[:chars]
        costs = []
        for _ in range(3):
            began = time.process_time()
            hidden(text)
            costs.append(time.process_time() - began)
        return min(costs)

    # Ten times the text; looked at again for each character it would be a hundred times the time.
    assert cost_s(200_000) < 40 * cost_s(20_000) + 0.1


@pytest.mark.parametrize(
    "secret",
    ["http://user:SECRETSECRET@host/x ", "http://h/?sig=SECRETSECRET ", "--api-key SECRETSECRET "],
)
def test_the_start_of_a_text_shows_no_part_of_a_secret_wherever_it_is_cut(secret: str) -> None:
    for before in range(4096 - len(secret) - 1, 4097):
        # What is hidden before it makes the text so short that the cut would be seen.
        text = f"{'--token ' + 'x' * (before - 14)} --x 1 {secret}" + "y" * 5000
        shown = hidden_start(text, 300)
        assert shown.startswith("--token *** --x")
        assert "SECRET" not in shown


def test_the_start_of_a_long_json_text_or_word_is_not_shown() -> None:
    assert hidden_start('{"api_key": "SECRET", "x": "' + "y" * 5000 + '"}', 300) == "***"
    assert hidden_start("http://user:SECRET" + "y" * 5000 + "@host", 300) == "***"
    assert hidden_start("no bucket\n" * 1000, 9) == "no bucket"
