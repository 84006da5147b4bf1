"""Fixtures of the server's tests."""

import pytest


@pytest.fixture
def separator():
    """Return a tiny analog separator."""
    from helpers.separators import tiny_separator

    return tiny_separator()


@pytest.fixture
def service(separator):
    """Return a running service with the tiny separator."""
    from helpers.web.serve import serving

    from spikesep.separation.inference.in_memory import Model

    with serving(Model(separator)) as running:
        yield running
