"""Settings of all tests."""

import os
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "cellzoo", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("cellzoo")


@pytest.fixture(autouse=True)
def _own_environment():
    """Restore the environment: a command sets variables for its children."""
    with mock.patch.dict(os.environ):
        for name in ("CELLZOO_PLUGINS", "CELLZOO_NAME"):
            os.environ.pop(name, None)
        # Compiling takes longer than a test: those about "auto" in training remove this.
        os.environ["CELLZOO_COMPILE"] = "0"
        yield
