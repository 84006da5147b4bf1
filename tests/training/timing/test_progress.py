import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from spikesep.training.timing import budget, progress
from spikesep.training.timing.budget import Budget, Pace, StageClock
from spikesep.training.timing.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    for module in (budget, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


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
    assert progress.INTERVAL < 30
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


def test_pace_ignores_the_first_steps(clock):
    pace = Pace()
    for seconds in (50, 20, 10):
        clock.seconds += seconds
        pace.step()
    assert not pace.is_known
    clock.seconds += 1000
    pace.start()  # excludes the time since the last step
    for _ in range(5):
        clock.seconds += 2
        pace.step()
    assert pace.is_known
    assert pace.seconds == 2


def test_stages_share_the_budget_in_proportion_to_their_steps(clock):
    stages = StageClock(Budget(10), [(6, 100), (1, 100), (1, 100)], at_end=2)
    stages.validation = 10
    clock.seconds = 20
    stages.open()
    assert not stages.cuts_short(0, False)
    # 600 s, less 20 s spent, five validations, and five validations for each later stage: 430 s.
    assert stages.share_spent == 0
    clock.seconds = 20 + 430 * 6 / 8 - 1
    assert stages.share_spent == pytest.approx(1, abs=0.01)
    assert not stages.cuts_short(0, False)
    clock.seconds += 1
    assert stages.cuts_short(0, False)
    assert not stages.cuts_short(0, True)
    stages.open()
    clock.seconds += 30
    assert not stages.cuts_short(1, False)
    # 227.5 s left, less four validations and 30 s for the last stage: half of 157.5 s.
    stages.start(1, 1)
    clock.seconds += 78
    assert not stages.step()
    clock.seconds += 1
    assert stages.step()
    assert stages.cuts_short(1, True)  # within its last epoch
    assert not stages.is_over
    clock.seconds = 560
    stages.open()
    clock.seconds += 30
    assert stages.cuts_short(2, False)
    assert stages.is_over
    assert not StageClock(Budget(None), [(3, 5)]).cuts_short(0, False)
