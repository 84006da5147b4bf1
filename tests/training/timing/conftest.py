from types import SimpleNamespace

import pytest

from spikesep.training.timing import budget, progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    now = SimpleNamespace(seconds=0.0)
    for module in (budget, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now
