"""Settings that contradict each other, or lack another one, stop the start."""

from __future__ import annotations

import pytest

from app.errors import ConfigError
from app.settings.checks import is_open
from app.settings.load import load
from tests.settings.test_load import NETWORK


@pytest.mark.parametrize("missing", NETWORK)
def test_networking_needs_all_four_or_none_and_names_what_is_missing(missing: str) -> None:
    environ = {name: value for name, value in NETWORK.items() if name != missing}
    with pytest.raises(ConfigError, match=f"needs {missing}, too") as error:
        load({}, environ)
    assert "c2VjcmV0" not in str(error.value)
    assert load({}, {**environ, "HATHORA_NETWORKING": "false"}).settings.hathora_networking is False
    assert load({}, NETWORK).settings.gcp_key is not None
    assert load({}, {}).settings.gcp_key is None


def test_networking_switched_off_starts_no_supervisor() -> None:
    loaded = load({}, {**NETWORK, "HATHORA_NETWORKING": "false"})
    assert not loaded.settings.networked
    assert load({}, NETWORK).settings.networked


@pytest.mark.parametrize("blank", ["  ", ",", '[""]', '["a", ""]'])
def test_a_blank_key_does_not_open_the_api(blank: str) -> None:
    with pytest.raises(ConfigError, match="API_KEY: a blank key would leave the API open"):
        load({}, {"API_KEY": blank})


@pytest.mark.parametrize(
    ("host", "open"),
    [
        ("0.0.0.0", True), ("::", True), ("10.0.0.7", True), ("vm-1", True),
        ("127.0.0.1", False), ("127.0.0.9", False), ("::1", False), ("localhost", False),
    ],
)  # fmt: skip
def test_without_a_key_the_api_is_open_beyond_loopback(host: str, open: bool) -> None:
    assert is_open(load({}, {"HOST": host}).settings) is open
    assert not is_open(load({}, {"HOST": host, "API_KEY": "sk"}).settings)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("ftp://host/x", "must be a folder"), ("s3:///x", "must be a folder"),
        ("file://host/x", "must be a folder"), ("https://host/x", "must be a folder"),
        ("s3://bucket/x#y", "must be a folder"),
        ("s3://key:secret@bucket/x", "credentials"), ("az://box/x?sig=secret", "credentials"),
    ],
)  # fmt: skip
def test_a_place_for_files_that_cannot_be_is_refused_without_its_secrets(
    path: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^FILE_STORAGE_PATH: {problem}") as caught:
        load({}, {"FILE_STORAGE_PATH": path})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["memory", "off"])
def test_a_bucket_needs_a_database(url: str) -> None:
    with pytest.raises(ConfigError, match=r"FILE_STORAGE_PATH: .* STORE_URL"):
        load({}, {"FILE_STORAGE_PATH": "s3://bucket", "STORE_URL": url})
    load({}, {"FILE_STORAGE_PATH": "/data", "STORE_URL": url})
    load({}, {"FILE_STORAGE_PATH": "s3://bucket"})
