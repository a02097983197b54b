"""Settings that contradict each other, or lack another one, stop the start."""

from __future__ import annotations

import pytest

from app.errors import ConfigError
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
