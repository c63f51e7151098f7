"""Settings of all tests."""

import os
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, settings

from cellzoo.names import plugins
from cellzoo.names.registry import Registry

torch.set_num_threads(1)
settings.register_profile(
    "cellzoo", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("cellzoo")


@pytest.fixture(autouse=True)
def _own_environment():
    """Restore the environment, the registries and the list of plugins after each test."""
    restore = Registry.snapshot()
    with mock.patch.dict(os.environ), mock.patch.dict(plugins._loaded):
        for name in ("CELLZOO_PLUGINS", "CELLZOO_NAME"):
            os.environ.pop(name, None)
        # Compiling takes longer than a test: those about "auto" in training remove this.
        os.environ["CELLZOO_COMPILE"] = "0"
        yield
    restore()
