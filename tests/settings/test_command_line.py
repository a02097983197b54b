"""The flags."""

from __future__ import annotations

import pytest

from tests.settings.sources import flags


def test_the_key_is_not_taken_from_the_command_line() -> None:
    with pytest.raises(SystemExit):
        flags("--gcp-service-account-key-base64", "c2VjcmV0")
