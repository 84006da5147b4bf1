import pytest

from spikesep.training.timing.budget import Budget, Pace, StageClock


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
