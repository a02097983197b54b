"""The fixtures of the live tests."""

from tests.live.conftest import fake, start

__all__ = ["fake", "start"]
