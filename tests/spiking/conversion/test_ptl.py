import copy

import pytest
import torch
from helpers.regression import RegressionTrainer
from helpers.stacks import signal_before
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.ptl import ProgressiveTandemLearning
from spikesep.spiking.conversion.report import conversion_report
from spikesep.spiking.conversion.schedule import AdaptiveSchedule
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding


def make_network():
    torch.manual_seed(0)
    layers = [SpikingLayer(nn.Linear(6, 6), nn.BatchNorm1d(6), identity=k > 0) for k in range(3)]
    network = SpikingNetwork(layers, Readout(nn.Linear(6, 2)))
    for _ in range(20):
        network(torch.rand(64, 6))
    return network.eval()


def learn(network, trainer, **settings):
    settings = {"patience": 2, "max_epochs": 5, **settings}
    return ProgressiveTandemLearning(network, network, trainer, Coding(4), **settings)


def test_a_stage_ends_when_patience_is_over():
    schedule = AdaptiveSchedule(patience=2, max_epochs=10)
    schedule.start(1.0)
    assert [schedule.update(loss) for loss in (0.9, 0.95, 0.8)] == [True, False, True]
    assert not schedule.finished
    schedule.update(0.8)  # as good is not better
    assert not schedule.finished
    schedule.update(0.9)
    assert schedule.finished
    assert schedule.best_loss == 0.8


def test_a_stage_ends_after_its_last_epoch():
    schedule = AdaptiveSchedule(patience=100, max_epochs=3)
    for loss in (3.0, 2.0, 1.0):
        assert not schedule.finished
        schedule.update(loss)
    assert schedule.finished


def test_all_layers_spike_in_the_end_and_training_has_helped():
    network = make_network()
    seen = []
    learning = learn(
        network, RegressionTrainer(network), max_epochs=40, patience=40, on_epoch=seen.append
    )
    learning.run()
    assert [layer.mode for layer in network.layers.values()] == ["spiking"] * 3
    assert learning.stage == 3
    losses = [p.valid_loss for p in seen if p.stage == 0]
    assert min(losses) < losses[0]


def test_the_best_weights_of_a_stage_are_restored():
    network = make_network()
    trainer = RegressionTrainer(network, losses=[5.0, 1.0, 2.0, 3.0, *[9.0] * 20])
    snapshots = {}

    def on_epoch(progress):
        snapshots[progress.stage, progress.epoch] = copy.deepcopy(network.state_dict())

    def on_stage(stage):
        if stage == 0:
            snapshots["frozen"] = copy.deepcopy(network.state_dict())

    learn(network, trainer, on_epoch=on_epoch, on_stage=on_stage).run()
    assert (0, 3) in snapshots
    assert (0, 4) not in snapshots
    best, last, frozen = (snapshots[key] for key in ((0, 1), (0, 3), "frozen"))
    assert all(torch.equal(frozen[name], best[name]) for name in best)
    assert not all(torch.equal(frozen[name], last[name]) for name in last)


def test_converting_without_training_keeps_a_better_start():
    """Epoch 0 is a candidate: fine-tuning that never helps leaves the converted weights."""
    network = make_network()
    trainer = RegressionTrainer(network, losses=[1.0, 2.0, 3.0] * 3)
    starts = {}

    def on_epoch(progress):
        if progress.epoch == 0:
            starts[progress.stage] = copy.deepcopy(network.state_dict())

    def on_stage(stage):
        assert all(torch.equal(v, starts[stage][k]) for k, v in network.state_dict().items())

    learn(network, trainer, on_epoch=on_epoch, on_stage=on_stage).run()
    assert len(starts) == 3


def test_frozen_weights_statistics_and_thresholds_do_not_move_in_later_stages():
    network = make_network()
    frozen = {}

    def on_stage(stage):
        frozen[stage] = copy.deepcopy(network[stage].state_dict())

    learn(network, RegressionTrainer(network), on_stage=on_stage).run()
    for stage, before in frozen.items():
        after = network[stage].state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) for k in before)


def test_statistics_of_analog_layers_go_on_until_their_own_stage():
    network = make_network()
    before = network[2].norm.running_mean.clone()
    moved = []
    learn(
        network,
        RegressionTrainer(network),
        on_stage=lambda s: moved.append(s == 0 and network[2].norm.running_mean.clone()),
    ).run()
    assert not torch.equal(before, moved[0])


def test_no_training_converts_all_layers_at_once():
    network = make_network()
    weights = copy.deepcopy(network.readout.state_dict())
    learn(network, RegressionTrainer(network), max_epochs=0).run()
    assert network.n_converted == 3
    assert all(torch.equal(v, weights[k]) for k, v in network.readout.state_dict().items())


@pytest.mark.parametrize("stop_at", [(0, 0), (0, 2), (1, 0), (1, 3), (2, 1)])
def test_a_run_stopped_after_any_epoch_ends_as_an_unbroken_one(stop_at):
    unbroken = make_network()
    learn(unbroken, RegressionTrainer(unbroken), max_epochs=4).run()

    class StopError(Exception):
        pass

    saved = {}

    def on_epoch(progress):
        saved.update(copy.deepcopy(first.state_dict()))
        if (progress.stage, progress.epoch) == stop_at:
            raise StopError

    network = make_network()
    first = learn(network, RegressionTrainer(network), max_epochs=4, on_epoch=on_epoch)
    with pytest.raises(StopError):
        first.run()
    network = make_network()
    second = learn(network, RegressionTrainer(network), max_epochs=4)
    second.load_state_dict(saved)
    second.run()
    assert [c.upper_bound for c in second.choices] == pytest.approx(
        [float(t.threshold) * 4 for t in unbroken.layers.values()]
    )
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_the_report_says_what_conversion_left():
    network = make_network()
    learning = learn(network, trainer := RegressionTrainer(network), max_epochs=0, percentile=100.0)
    learning.run()
    reports = conversion_report(network, [trainer.x[:64], trainer.x[64:]], learning.choices)
    assert [r.layer for r in reports] == ["0", "1", "2"]
    first = reports[0]
    twin = network[0].activation(trainer.x).detach()
    coded = (twin / first.threshold).round().clamp(0, 4)
    spikes = signal_before(network, trainer.x, 1).trains[0].spikes
    assert first.firing_rate == pytest.approx(float(spikes.float().mean()))
    assert first.quantization_error == pytest.approx(
        float((coded * first.threshold - twin).norm() / twin.norm()), rel=1e-4
    )
    assert first.count_error < 0.01  # a constant current leaves quantization alone
    assert first.clipped_share < 0.02
    assert sum(first.histogram["counts"]) == twin.numel()


def test_a_silent_layer_is_named():
    network = make_network()
    torch.nn.init.constant_(network[1].norm.bias, -100.0)
    with pytest.raises(SpikeSepError, match="layer 1: no activation lies above zero"):
        learn(network, RegressionTrainer(network)).run()


@pytest.mark.parametrize("discretize", [True, False])
def test_a_layer_keeps_the_threshold_that_it_learned_to_round_with(discretize):
    network, begun = make_network(), {}

    def watch(progress):
        if progress.epoch == 0:
            begun[progress.stage] = [float(layer.threshold) for layer in network.layers.values()]

    learning = learn(network, RegressionTrainer(network), discretize=discretize, on_epoch=watch)
    learning.run()
    kept = [begun[k][k] == begun[0][k] for k in range(3)]
    assert kept == [True, discretize, discretize]
    for choice, layer in zip(learning.choices, network.layers.values(), strict=True):
        assert choice.upper_bound / 4 == pytest.approx(float(layer.threshold))
        assert (
            choice.percentile == pytest.approx(100 * (1 - choice.clipped_share), abs=0.2)
            or not discretize
        )
