import math
import resource

import pytest
from helpers.conversion import convert, same, stopped_clock, without_time

from spikesep.errors import SpikeSepError
from spikesep.spiking.layer import SpikingLayer
from spikesep.training.conversion import prefix_cache


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    return stopped_clock(monkeypatch)


@pytest.mark.parametrize("n_steps", [1, 8, 12])
@pytest.mark.parametrize("place", ["memory", "disk", "train on disk"])
def test_caching_does_not_change_the_result(tmp_path, n_steps, place):
    gib = {
        "memory": {},
        "disk": {"memory_gib": 0, "disk_gib": 1},
        "train on disk": {"memory_gib": 2200 * -(-n_steps // 8) / 2**30, "disk_gib": 1},
    }
    cached, choices, history = convert(tmp_path / "cached", n_steps=n_steps, **gib[place])
    plain, plain_choices, plain_history = convert(tmp_path / "plain", n_steps=n_steps, memory_gib=0)
    assert [c.upper_bound for c in choices] == [c.upper_bound for c in plain_choices]
    assert without_time(history) == without_time(plain_history)
    assert same(cached, plain)


def test_spikes_that_do_not_fit_are_not_cached_with_a_notice(tmp_path, capsys):
    convert(tmp_path, memory_gib=1e-9)
    assert "spike cache off for the train examples" in capsys.readouterr().out


def test_spikes_on_disk_leave_no_files_behind(tmp_path, monkeypatch):
    """Neither while a run is in progress nor after it was interrupted."""
    taken, files = [], []
    make = prefix_cache.unnamed_file_tensor

    def watching(folder, shape):
        taken.append((folder, math.prod(shape)))
        if len(taken) == 3:
            raise KeyboardInterrupt
        tensor = make(folder, shape)
        files.append(sorted(path.name for path in folder.iterdir()))
        return tensor

    monkeypatch.setattr(prefix_cache, "unnamed_file_tensor", watching)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path, memory_gib=0, disk_gib=1)
    assert taken[:2] == [(tmp_path / "snn", 40 * 60), (tmp_path / "snn", 17 * 60)]
    assert files == [["stage01.pt", "state.pt"]] * 2
    assert sorted(path.name for path in (tmp_path / "snn").iterdir()) == [
        "stage01.pt",
        "stage02.pt",
        "state.pt",
    ]


def test_full_disk_error_is_one_line(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(
            SpikeSepError, match=r"spike cache: cannot be written .*; make room"
        ) as error:
            prefix_cache.unnamed_file_tensor(tmp_path, (2**17,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def passes(monkeypatch):
    """Numbers of examples that pass frozen layers, filled in while a test runs."""
    numbers, fire = [], SpikingLayer.fire

    def counting(self, signal):
        if self.mode == "spiking":
            numbers.append(len(signal.value))
        return fire(self, signal)

    monkeypatch.setattr(SpikingLayer, "fire", counting)
    return numbers


def test_each_example_passes_each_frozen_layer_once(tmp_path, passes):
    """Passes through frozen layers grow with the depth L, not with L squared."""
    convert(tmp_path)
    assert sum(passes) == 2 * (40 + 17)  # the first two of three layers


def test_only_calibration_examples_are_cached_without_time(tmp_path, clock, passes):
    convert(tmp_path, began=clock.seconds - 1000, max_minutes=3, calibration_examples=14)
    assert sum(passes) == 2 * (14 + 17)
