"""Fixtures that tests of several packages share."""

import pytest
from helpers.experiments import Experiment, make_experiment
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # a loaded machine is slow, not wrong
settings.load_profile("no deadline")


def pytest_collection_modifyitems(config, items):
    """Deselect tests marked `stress` unless they are requested with -m stress."""
    if "stress" not in (config.option.markexpr or ""):
        left_out = [item for item in items if item.get_closest_marker("stress")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    """Return an experiment that the test may change."""
    return make_experiment(tmp_path)


@pytest.fixture(scope="module")
def kept_experiment(tmp_path_factory) -> Experiment:
    """Return an experiment that the tests of a module share and must not change."""
    return make_experiment(tmp_path_factory.mktemp("kept"))
