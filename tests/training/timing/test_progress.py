import io
import time

import pytest
from rich.console import Console

from spikesep.training.timing import progress
from spikesep.training.timing.progress import Progress, duration


def test_line_contains_rate_and_remaining_time(clock):
    told = Progress()
    told.begin("epoch 2/9", 100)
    assert told.line() == "epoch 2/9: 0/100 steps"
    clock.seconds = 30
    told.advance(20)
    assert told.line() == "epoch 2/9: 20/100 steps, 0.667 steps/s, 2 min left"
    told.begin("validation", unit="batches", left=lambda: "at most 3 h left")
    clock.seconds = 40
    told.advance(5)
    assert told.line() == "validation: 5 batches, 0.5 batches/s, at most 3 h left"
    told.begin("starting")
    assert told.line() == "starting"


def test_lines_are_printed_regularly_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    with Progress() as told:
        told.begin("epoch 1/2", 3)
        end = time.monotonic() + 10
        said = ""
        while said.count("epoch 1/2: 0/3 steps\n") < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
            said += capsys.readouterr().out
    time.sleep(0.05)
    assert capsys.readouterr().out.count("\n") <= 1  # none after the block


@pytest.mark.parametrize(
    ("options", "draws"), [({}, True), ({"bar": False}, False), ({"quiet": True}, False)]
)
def test_bar_is_drawn_on_a_terminal(monkeypatch, capsys, options, draws):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True))
    with Progress(**options) as told:
        told.begin("epoch 1/2", 3)
        told.advance()
        time.sleep(0.05)
    assert ("1/3" in screen.getvalue()) == draws
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.2, "45 s"), (90, "2 min"), (3600, "60 min"), (12600, "3.5 h")]
)
def test_durations_have_readable_units(seconds, text):
    assert duration(seconds) == text
