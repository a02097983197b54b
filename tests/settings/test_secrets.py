"""Secrets are shown nowhere, however deep they lie."""

from __future__ import annotations

import json

import pytest

from app.settings.secrets import hidden, redacted


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
