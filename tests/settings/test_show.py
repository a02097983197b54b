"""Settings as the operator reads them: the documentation, and rows without secrets."""

from __future__ import annotations

from pathlib import Path

from app.settings.load import load
from app.settings.show import describe, markdown
from tests.settings.sources import origin


def test_the_documentation_is_made_from_the_declarations() -> None:
    written = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    assert written == markdown(), "run `make docs`"


def test_secrets_are_never_shown() -> None:
    loaded = load({}, {"API_KEY": "sk-one,sk-two"})
    assert "sk-one" not in repr(loaded.settings)
    assert not any("sk-" in value for _, value, _ in describe(loaded))
    assert [key.get_secret_value() for key in loaded.settings.api_key] == ["sk-one", "sk-two"]


def test_secrets_in_engine_args_are_not_shown() -> None:
    loaded = load(
        {}, {"ENGINE_ARGS": '{"remote_password": "hidden", "page_size": 1}', "ENGINE": "scripted"}
    )
    assert origin(loaded, "ENGINE_ARGS")[0] == '{"remote_password": "***", "page_size": 1}'


def test_a_command_line_and_an_address_are_shown_without_their_secrets() -> None:
    environ = {
        "SGLANG_SERVER_CMD": "sglang.launch_server --model-path x --api-key sk-1 --hf-token=hf-2",
        "SGLANG_BASE_URL": "https://user:pass-3@host/v1",
    }
    shown = " ".join(value for _, value, _ in describe(load({}, environ)))
    assert not [secret for secret in ("sk-1", "hf-2", "pass-3") if secret in shown]
    assert "https://***@host/v1" in shown
