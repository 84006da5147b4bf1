import copy
import math
import re
import resource
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.cost import measure
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.training import convert as conversion
from spikesep.training.config import ConversionConfig
from spikesep.training.records.history import History
from spikesep.training.timing import budget


class Model(nn.Module):
    """A scaling in front, three layers, a sum behind."""

    def __init__(self, identity=True):
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Linear(6, 6)
        synapses = [nn.Conv1d(6, 6, 3, padding=1) for _ in range(3)]
        layers = [
            SpikingLayer(s, nn.BatchNorm1d(6), identity=identity and k > 0)
            for k, s in enumerate(synapses)
        ]
        self.network = SpikingNetwork(layers, Readout(nn.Conv1d(6, 2, 1)))

    def encode(self, x):
        return self.scale(x.mT).mT, x

    def decode(self, potential, x):
        return potential + x[:, :2]

    def forward(self, x):
        features, context = self.encode(x)
        return self.decode(self.network(features), context)

    def front(self):
        return [self.scale]


class Examples(torch.utils.data.Dataset):
    def __init__(self, n, seed):
        x = torch.rand(n, 6, 10, generator=torch.Generator().manual_seed(seed))
        self.pairs = [(v, torch.stack([v.sum(0), v[0]])) for v in x]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def trained(**options):
    model, data = Model(**options), Examples(64, 1)
    for _ in range(5):
        model(torch.stack([x for x, _ in data.pairs]))
    return model.eval()


def mean_square(prediction, target):
    return (prediction - target).square().mean()


def convert(folder, model=None, loss=mean_square, fresh=None, teacher=None, began=None, **settings):
    model = model or trained(identity="synops_budget" not in settings)
    given = {
        "max_epochs": 2,
        "patience": 2,
        "learning_rate": 3e-3,
        "batch_size": 7,
        "weight_bits": 0,
    }
    config = ConversionConfig(**given | settings)
    history = History(folder / "history.csv")
    choices = conversion.convert(
        model,
        loss,
        Examples(40, 2),
        Examples(17, 3),
        config,
        folder / "snn",
        history,
        lambda prediction, target, value: -value,
        seed=5,
        fresh=fresh,
        teacher=teacher,
        began=began,
    )
    return model, choices, history.read()


def same(one, other):
    return all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def without_time(history):
    return [(r.stage, r.epoch, r.valid_loss) for r in history]


@pytest.mark.parametrize("n_steps", [1, 8, 12])
@pytest.mark.parametrize("place", ["memory", "disk", "train on disk"])
def test_the_cache_changes_nothing(tmp_path, n_steps, place):
    gib = {
        "memory": {},
        "disk": {"cache_gib": 0, "cache_disk_gib": 1},
        "train on disk": {"cache_gib": 2200 * -(-n_steps // 8) / 2**30, "cache_disk_gib": 1},
    }
    cached, choices, history = convert(tmp_path / "cached", n_steps=n_steps, **gib[place])
    plain, plain_choices, plain_history = convert(tmp_path / "plain", n_steps=n_steps, cache_gib=0)
    assert [c.upper_bound for c in choices] == [c.upper_bound for c in plain_choices]
    assert without_time(history) == without_time(plain_history)
    assert same(cached, plain)


def test_what_does_not_fit_is_not_cached_and_said(tmp_path, capsys):
    convert(tmp_path, cache_gib=1e-9)
    assert "spike cache off for the train examples" in capsys.readouterr().out


def test_spikes_on_disk_leave_no_file_whether_the_run_ends_or_not(tmp_path, monkeypatch):
    """The room they take is the disk's while they are there."""
    taken, files = [], []
    make = conversion.in_unnamed_file

    def watching(folder, shape):
        taken.append((folder, math.prod(shape)))
        if len(taken) == 3:
            raise KeyboardInterrupt
        tensor = make(folder, shape)
        files.append(sorted(path.name for path in folder.iterdir()))
        return tensor

    monkeypatch.setattr(conversion, "in_unnamed_file", watching)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path, cache_gib=0, cache_disk_gib=1)
    assert taken[:2] == [(tmp_path / "snn", 40 * 60), (tmp_path / "snn", 17 * 60)]
    assert files == [["stage01.pt", "state.pt"]] * 2
    assert sorted(path.name for path in (tmp_path / "snn").iterdir()) == [
        "stage01.pt",
        "stage02.pt",
        "state.pt",
    ]


def test_a_full_disk_is_one_line(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(
            SpikeSepError, match=r"spike cache: cannot be written .*; make room"
        ) as error:
            conversion.in_unnamed_file(tmp_path, (2**17,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_each_example_runs_through_each_frozen_layer_once(tmp_path, monkeypatch):
    """The saving that the cache is there for: passes through frozen layers grow with L, not with L squared."""
    passes = []
    fire = SpikingLayer.fire

    def counting(self, signal):
        if self.mode == "spiking":
            passes.append(len(signal.value))
        return fire(self, signal)

    monkeypatch.setattr(SpikingLayer, "fire", counting)
    convert(tmp_path)
    assert sum(passes) == 2 * (40 + 17)  # the first two of three layers


def test_the_front_stays_as_it_is_and_everything_behind_learns(tmp_path):
    before = copy.deepcopy(trained().state_dict())
    model, _, _ = convert(tmp_path)
    after = model.state_dict()
    assert torch.equal(before["scale.weight"], after["scale.weight"])
    assert not torch.equal(
        before["network.readout.synapse.weight"], after["network.readout.synapse.weight"]
    )


def test_fine_tuning_makes_up_for_conversion(tmp_path):
    _, _, tuned = convert(tmp_path / "tuned", n_steps=4, max_epochs=20, patience=20)
    _, _, primitive = convert(tmp_path / "primitive", n_steps=4, max_epochs=0)
    assert tuned[-1].valid_loss < primitive[-1].valid_loss


def test_each_stage_leaves_a_checkpoint(tmp_path):
    convert(tmp_path)
    assert sorted(p.name for p in (tmp_path / "snn").iterdir()) == [
        "stage01.pt",
        "stage02.pt",
        "stage03.pt",
        "state.pt",
    ]


SETTINGS = {
    "": {},
    "limits": {"qat_bits": 4, "fan_in": 5, "gradient": "clipped"},
    "refit": {"fan_in": 5, "pruning": "refit"},
    "refit with few bits": {"fan_in": 5, "pruning": "refit", "qat_bits": 4},
    "refit of what stays analog": {"fan_in": 5, "pruning": "refit", "discretize": False},
    "allotted": {"synops_budget": 0.8},
    "allotted, and not worth it": {"fan_in": 18, "pruning": "refit", "synops_budget": 0.8},
    "cache on disk": {"cache_gib": 0, "cache_disk_gib": 1},
    "tandem": {"method": "tandem"},
    "surrogate": {"method": "surrogate"},
    "muon": {"optimizer": "muon"},
    "mean weights": {"ema_decay": 0.8},
}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time passes only where a test lets it."""
    now = SimpleNamespace(seconds=1000.0)
    for module in (budget, conversion):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("n_calls", [3, 11, 20, 30, 37])
def test_a_run_stopped_anywhere_ends_as_an_unbroken_one(tmp_path, n_calls, name):
    settings = SETTINGS[name]
    if "method" in settings and n_calls > 25:
        pytest.skip("the run is shorter than that: all layers at once")
    unbroken, choices, expected = convert(tmp_path / "unbroken", **settings)
    left = n_calls

    class StopError(Exception):
        pass

    def failing(prediction, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise StopError
        return mean_square(prediction, target)

    with pytest.raises(StopError):
        convert(tmp_path / "broken", loss=failing, **settings)
    resumed, again, history = convert(tmp_path / "broken", **settings)
    assert [c.upper_bound for c in again] == [c.upper_bound for c in choices]
    assert without_time(history) == without_time(expected)
    assert same(resumed, unbroken)


@pytest.mark.parametrize("settings", [SETTINGS["allotted"], SETTINGS["allotted, and not worth it"]])
def test_a_budget_of_spikes_is_kept(tmp_path, settings):
    """Whatever learning does: here spikes are all it is paid for."""

    def firing(prediction, target):
        return -prediction.square().mean()

    model, _, _ = convert(
        tmp_path, loss=firing, max_epochs=0, first_stage_epochs=3, deferred=True, **settings
    )
    examples = Examples(40, 2)
    _, cost = measure(model.network, model.encode(torch.stack([x for x, _ in examples.pairs]))[0])
    assert cost.synops_ratio == pytest.approx(0.8, rel=0.1)  # the estimate knows no borders


class Sampler(torch.utils.data.SequentialSampler):
    def __init__(self, data):
        super().__init__(data)
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def test_the_first_stage_takes_fresh_examples_and_the_others_the_fixed_ones(tmp_path):
    data, seen = Examples(24, 9), []
    loader = torch.utils.data.DataLoader(data, batch_size=8, sampler=Sampler(data))

    def watching(prediction, target):
        if prediction.requires_grad:
            seen.append(len(target))
        return mean_square(prediction, target)

    _, _, history = convert(
        tmp_path, loss=watching, fresh=loader, max_epochs=1, first_stage_epochs=3, patience=9
    )
    assert loader.sampler.epochs == [1, 2, 3]
    assert seen == [8] * 9 + [7, 7, 7, 7, 7, 5] * 2
    assert [(r.stage, r.epoch) for r in history] == [
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 0),
        (2, 1),
        (3, 0),
        (3, 1),
    ]


def test_a_teacher_says_what_is_learned_and_what_is_best_and_the_metric_is_of_the_targets(tmp_path):
    class Decoding(Model):
        """What is behind the network learns, too."""

        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def decode(self, potential, x):
            return self.gain * super().decode(potential, x)

    learned, valid = Examples(40, 2).pairs, Examples(17, 3).pairs
    model, seen = Decoding().eval(), {True: [], False: []}
    teacher, analog = copy.deepcopy(model), copy.deepcopy(model)

    def watching(prediction, target):
        seen[prediction.requires_grad].append(target)
        return mean_square(prediction, target)

    gentle = {"max_epochs": 3, "first_stage_learning_rate": 1e-4, "learning_rate": 1e-4}
    _, _, history = convert(
        tmp_path, model, watching, teacher=teacher, precision="float32", **gentle
    )
    with torch.no_grad():
        taught, taught_valid = (
            analog(torch.stack([x for x, _ in pairs])) for pairs in (learned, valid)
        )
    for target in torch.cat(seen[True]):
        assert (taught - target).abs().amax((1, 2)).min() < 1e-5
    of_targets, of_teacher = (
        seen[False][::2],
        seen[False][1::2],
    )  # of each batch one after the other
    for found, expected in (
        (of_targets, torch.stack([y for _, y in valid])),
        (of_teacher, taught_valid),
    ):
        for target in torch.cat(found):
            assert (expected - target).abs().amax((1, 2)).min() < 1e-5
    assert (
        history[0].valid_loss < -0.1 * history[0].valid_metric
    )  # right after conversion it is near what is learned
    assert model.gain != 1
    assert same(teacher, analog)


def test_an_epoch_ends_with_the_mean_of_the_weights_and_learning_goes_on_from_where_it_was(
    tmp_path, monkeypatch
):
    """Against a plain loop in float64 over what the optimizer leaves after each of its steps."""
    decay, steps, ends = 0.7, [], []
    step, validate = torch.optim.Adam.step, conversion.TandemTrainer.validate

    def watched(optimizer, *arguments):
        step(optimizer, *arguments)
        steps.append([p.detach().double().clone() for p in optimizer.param_groups[0]["params"]])

    def ended(trainer, stage):
        ends.append(
            [p.detach().double().clone() for p in trainer.model.parameters() if p.requires_grad]
        )
        return validate(trainer, stage)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    monkeypatch.setattr(conversion.TandemTrainer, "validate", ended)
    convert(tmp_path, ema_decay=decay, first_stage_epochs=3, max_epochs=0)
    mean, per_epoch = ends[0], len(steps) // 3
    for k, weights in enumerate(steps):
        mean = [decay * m + (1 - decay) * w for m, w in zip(mean, weights, strict=True)]
        if (k + 1) % per_epoch == 0:
            for m, found in zip(mean, ends[(k + 1) // per_epoch], strict=True):
                torch.testing.assert_close(found, m, rtol=1e-5, atol=1e-6)
    assert any(
        (a - b).abs().max() > 1e-3 for a, b in zip(steps[per_epoch - 1], ends[1], strict=True)
    )


@pytest.mark.parametrize("discretize", [False, True])
def test_layers_not_yet_converted_round_if_asked(tmp_path, discretize):
    modes = []

    def watching(prediction, target):
        modes.append([layer.mode for layer in model.network.layers.values()])
        return mean_square(prediction, target)

    model = trained()
    convert(tmp_path, model, loss=watching, max_epochs=1, discretize=discretize)
    later = "discrete" if discretize else "analog"
    assert modes[0] == ["tandem", later, later]
    assert ["spiking", "tandem", later] in modes
    assert modes[-1] == ["spiking", "spiking", "tandem"]


def test_a_price_on_synaptic_operations_makes_neurons_fire_less(tmp_path):
    def rate(weight):
        model, _, _ = convert(
            tmp_path / f"{weight}", synops_weight=weight, max_epochs=4, learning_rate=1e-2
        )
        x = torch.stack([x for x, _ in Examples(17, 3).pairs])
        return measure(model.network, model.encode(x)[0])[1].synops_ratio

    assert rate(0.5) < 0.7 * rate(0.0)


def test_the_loss_that_chooses_the_best_epoch_has_the_price_in_it(tmp_path):
    model, _, history = convert(tmp_path, synops_weight=0.5, max_epochs=0, deferred=True)
    x = torch.stack([x for x, _ in Examples(17, 3).pairs])
    ratio = measure(model.network, model.encode(x)[0])[1].synops_ratio
    price = (
        history[0].valid_loss + history[0].valid_metric
    )  # the metric is the task's loss, negated
    assert price == pytest.approx(0.5 * ratio, rel=0.1)  # the estimate sees no borders


def test_deferred_neurons_leave_nothing_to_the_later_stages_but_what_they_learn(tmp_path):
    """Layers that round already fire as many spikes: no stage after the first begins worse than the last one ended."""
    _, _, rows = convert(tmp_path, deferred=True)
    ends = {row.stage: min(r.valid_loss for r in rows if r.stage == row.stage) for row in rows}
    begins = {row.stage: row.valid_loss for row in rows if row.epoch == 0}
    for stage in (2, 3):
        assert begins[stage] == pytest.approx(ends[stage - 1], rel=1e-3)


def test_the_finished_network_is_brought_into_fixed_point_form_and_its_loss_is_told(
    tmp_path, capsys
):
    model, _, history = convert(tmp_path, weight_bits=6)
    assert model.network.is_fixed_point
    assert max(int(layer.fixed.weight.abs().max()) for layer in model.network.layers.values()) == 31
    told = float(re.search("6-bit weights: validation loss ([0-9.]+)", capsys.readouterr().out)[1])
    assert told == pytest.approx(min(row.valid_loss for row in history if row.stage == 3), rel=1e-3)


def test_a_network_without_a_fixed_point_form_is_told_before_any_work(tmp_path):
    model = trained()
    model.network[1].synapse.padding_mode = "reflect"
    with pytest.raises(SpikeSepError, match="has no fixed-point form; set weight_bits to 0"):
        convert(tmp_path, model, weight_bits=8)
    assert not (tmp_path / "history.csv").exists()


def test_numbers_of_another_kind_are_refused_before_any_work(tmp_path):
    with pytest.raises(SpikeSepError, match=r"layer 0: its weights are float64; call \.float\(\)"):
        convert(tmp_path, trained().double())
    assert not (tmp_path / "history.csv").exists()


def test_a_norm_that_is_not_over_channels_is_refused_before_any_work(tmp_path):
    """Behind Linear and positions, batch norm is over the positions: of as many, nothing else tells."""

    class Vectors(Model):
        def __init__(self):
            super().__init__()
            layer = SpikingLayer(nn.Linear(6, 6), nn.BatchNorm1d(6))
            layer.norm.running_mean.copy_(torch.arange(6))
            self.network = SpikingNetwork([layer], Readout(nn.Linear(6, 2)))

        def encode(self, x):
            return x[:, :, :6], x[:, :, :2]

        def decode(self, potential, x):
            return (potential + x).sum(1)

    with pytest.raises(
        SpikeSepError, match=r"layer 0: BatchNorm1d cannot be folded into Linear .*\[7, 6, 6\]"
    ):
        convert(
            tmp_path, Vectors().eval(), loss=lambda prediction, target: prediction.square().mean()
        )
    assert not (tmp_path / "history.csv").exists()


def other_model():
    model = trained()
    with torch.no_grad():
        model.network.readout.synapse.weight[0, 0, 0] += 1e-3
    return model


def deeper_model():
    model = trained()
    model.network.layers["3"] = SpikingLayer(nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6))
    return model.eval()


OTHERS = {
    "weights": ({"model": other_model}, "begun with weights = "),
    "layers": ({"model": deeper_model}, "begun with weights = "),
    "n_steps": ({"n_steps": 2}, r"begun with ptl\.n_steps = 8, not 2"),
    "method": ({"method": "tandem"}, r"begun with ptl\.method = ptl, not tandem"),
    "teacher": ({"teacher": trained}, "begun with teacher = None, not "),
}


@pytest.mark.parametrize(("changes", "message"), OTHERS.values(), ids=OTHERS)
def test_the_checkpoints_of_another_run_are_refused(tmp_path, changes, message):
    first, _, history = convert(tmp_path, max_epochs=0)
    given = {name: make() if callable(make) else make for name, make in changes.items()}
    with pytest.raises(
        SpikeSepError, match=f"snn: holds a conversion that was {message}.*; give another folder"
    ):
        convert(tmp_path, **{"max_epochs": 0} | given)
    again, _, rows = convert(tmp_path, max_epochs=0, cache_gib=0)  # which changes nothing
    assert same(again, first)
    assert without_time(rows) == without_time(history)


def test_checkpoints_that_do_not_say_what_they_are_of_are_taken_up_where_they_fit(tmp_path):
    first, _, _ = convert(tmp_path, max_epochs=0)
    path = tmp_path / "snn" / "state.pt"
    state = torch.load(path, weights_only=True)
    assert state.pop("begun")["ptl"].pop("clip_norm") == 5.0
    torch.save(state, path)
    assert same(convert(tmp_path, max_epochs=0)[0], first)
    with pytest.raises(
        SpikeSepError, match="snn: holds the conversion of another network; give another folder"
    ):
        convert(tmp_path, deeper_model(), max_epochs=0)


def test_a_setting_that_is_new_since_the_checkpoint_goes_on_at_its_default_alone(tmp_path):
    first, _, _ = convert(tmp_path, max_epochs=0)
    path = tmp_path / "snn" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["begun"]["ptl"]["clip_norm"]
    torch.save(state, path)
    assert same(convert(tmp_path, max_epochs=0)[0], first)
    with pytest.raises(SpikeSepError, match=r"ptl\.clip_norm = 5\.0, not 1"):
        convert(tmp_path, max_epochs=0, clip_norm=1.0)


@pytest.mark.parametrize(
    ("n_calls", "message"),
    [
        (0, "stage 1, epoch 0: the validation loss is nan"),
        (3, "stage 1, epoch 1: the training loss is nan"),
        (10, "stage 1, epoch 1: the validation loss is nan"),
        (30, "stage 2, epoch 1: the validation loss is nan"),
    ],
)
def test_a_loss_that_is_no_number_ends_the_run_where_it_was(tmp_path, n_calls, message):
    left = n_calls

    def failing(prediction, target):
        nonlocal left
        left -= 1
        return mean_square(prediction, target) * (math.nan if left < 0 else 1)

    with pytest.raises(SpikeSepError, match=f"{message}; look for NaN"):
        convert(tmp_path, loss=failing)
    state = tmp_path / "snn" / "state.pt"
    if state.exists():
        kept = torch.load(state, weights_only=True)["model"].values()
        assert all(tensor.isfinite().all() for tensor in kept)


@pytest.mark.parametrize(
    "settings", [{}, {"method": "rate"}, {"fan_in": 5, "pruning": "refit", "discretize": False}]
)
@pytest.mark.parametrize("bad", ["an example", "a weight"])
def test_what_is_no_number_is_found_before_anything_learns(tmp_path, monkeypatch, settings, bad):
    model, message = trained(), r"the network's layers\.1\.synapse\.bias holds NaN"
    if bad == "a weight":
        with torch.no_grad():
            model.network[1].synapse.bias[0] = math.nan
    else:
        message = "the network's input, in training examples 7 to 13, holds NaN"
        take = Examples.__getitem__
        monkeypatch.setattr(
            Examples,
            "__getitem__",
            lambda self, k: (take(self, k)[0] / (0 if k == 9 else 1), take(self, k)[1]),
        )
    with pytest.raises(SpikeSepError, match=message):
        convert(tmp_path, model, **settings)
    assert not (tmp_path / "history.csv").exists()


def passing(clock, seconds=4.0):
    """A loss whose every call takes so long."""

    def loss(prediction, target):
        clock.seconds += seconds
        return mean_square(prediction, target)

    return loss


@pytest.mark.parametrize("loaded", [0, 60])
def test_stages_share_the_time_and_all_of_it_is_kept(tmp_path, clock, capsys, loaded):
    """Six steps of 4 s an epoch, three batches of validation: without a budget, six epochs would take 252 s, and
    what comes with them another 60."""
    began = clock.seconds - loaded
    model, _, history = convert(
        tmp_path, loss=passing(clock), began=began, max_minutes=5, weight_bits=8
    )
    assert model.network.n_converted == 3
    assert model.network.is_fixed_point
    assert clock.seconds - began <= 300
    cut = {row.stage: row for row in history if row.cut_at}
    assert set(cut) == {1, 2, 3}
    assert cut[1].epoch > 0 or loaded
    assert all(
        row is cut.get(row.stage, row) or row.epoch < cut[row.stage].epoch for row in history
    )
    assert loaded or cut[1].learning_rate < 3e-4
    said = capsys.readouterr().out
    assert "conversion takes at most about" in said or loaded
    assert "The time budget of conversion cut short the training of 3 of 3 stages" in said


def test_without_time_layers_are_converted_untrained(tmp_path, clock, capsys):
    began = clock.seconds - 1000
    model, _, history = convert(tmp_path / "late", loss=passing(clock), began=began, max_minutes=3)
    untrained, _, expected = convert(tmp_path / "untrained", loss=passing(clock), max_epochs=0)
    assert (
        without_time(history)
        == without_time(expected)
        == [(k, 0, row.valid_loss) for k, row in enumerate(history, 1)]
    )
    assert [row.cut_at for row in history] == [2, 2, 2]
    assert same(model, untrained)
    assert "3 of 3 stages, 3 of them to none at all." in capsys.readouterr().out


def test_a_budget_that_suffices_changes_nothing(tmp_path, clock):
    free, _, expected = convert(tmp_path / "free", loss=passing(clock, 0.01), max_minutes=None)
    model, _, history = convert(tmp_path / "ample", loss=passing(clock, 0.01), max_minutes=60)
    assert without_time(history) == without_time(expected)
    assert all(row.cut_at == 0 for row in history)
    for one, other in zip(model.parameters(), free.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_run_that_was_killed_goes_on_by_the_same_clock(tmp_path, clock):
    given = {"max_minutes": 4}
    unbroken, _, expected = convert(tmp_path / "unbroken", loss=passing(clock), **given)
    left, loss = 25, passing(clock)

    def failing(prediction, target):
        nonlocal left
        if (left := left - 1) < 0:
            raise KeyboardInterrupt
        return loss(prediction, target)

    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "broken", loss=failing, **given)
    resumed, _, history = convert(tmp_path / "broken", loss=loss, **given)
    assert [row.stage for row in history if row.cut_at] == [1]
    assert [replace(row, seconds=0) for row in history if row.epoch] == [
        replace(row, seconds=0) for row in expected if row.epoch
    ]
    assert same(resumed, unbroken)


def test_without_time_frozen_layers_run_on_no_more_examples_than_calibration_takes(
    tmp_path, clock, monkeypatch
):
    passes, fire = [], SpikingLayer.fire

    def counting(self, signal):
        if self.mode == "spiking":
            passes.append(len(signal.value))
        return fire(self, signal)

    monkeypatch.setattr(SpikingLayer, "fire", counting)
    convert(tmp_path, began=clock.seconds - 1000, max_minutes=3, calibration_examples=14)
    assert sum(passes) == 2 * (14 + 17)
