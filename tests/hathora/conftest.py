"""What the tests of the registration share: a Compute API on loopback."""

import pytest

from tests.support.compute import fake_compute

fake = pytest.fixture(fake_compute)
