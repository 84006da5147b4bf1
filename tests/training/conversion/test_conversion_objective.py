import copy

import pytest
import torch
from helpers.conversion import Examples, Model, convert, mean_square, same
from torch import nn

from spikesep.spiking.cost import measure
from spikesep.training.conversion.tandem_trainer import TandemTrainer


class Sampler(torch.utils.data.SequentialSampler):
    def __init__(self, data):
        super().__init__(data)
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def test_only_the_first_stage_uses_fresh_examples(tmp_path):
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


def test_teacher_replaces_the_targets_of_the_loss_but_not_of_the_metric(tmp_path):
    class Decoding(Model):
        """A model whose decoder is trained, too."""

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
    )  # alternating, per batch
    for found, expected in (
        (of_targets, torch.stack([y for _, y in valid])),
        (of_teacher, taught_valid),
    ):
        for target in torch.cat(found):
            assert (expected - target).abs().amax((1, 2)).min() < 1e-5
    assert (
        history[0].valid_loss < -0.1 * history[0].valid_metric
    )  # right after conversion, close to the teacher
    assert model.gain != 1
    assert same(teacher, analog)


def test_epochs_end_with_averaged_weights_and_training_continues_from_the_last(
    tmp_path, monkeypatch
):
    """Compared with a float64 average of the weights after each step."""
    decay, steps, ends = 0.7, [], []
    step, validate = torch.optim.Adam.step, TandemTrainer.validate

    def watched_step(optimizer, *arguments):
        step(optimizer, *arguments)
        steps.append([p.detach().double().clone() for p in optimizer.param_groups[0]["params"]])

    def ended(trainer, stage):
        ends.append(
            [p.detach().double().clone() for p in trainer.model.parameters() if p.requires_grad]
        )
        return validate(trainer, stage)

    monkeypatch.setattr(torch.optim.Adam, "step", watched_step)
    monkeypatch.setattr(TandemTrainer, "validate", ended)
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


def test_synops_weight_reduces_firing(tmp_path):
    def rate(weight):
        model, _, _ = convert(
            tmp_path / f"{weight}", synops_weight=weight, max_epochs=4, learning_rate=1e-2
        )
        x = torch.stack([x for x, _ in Examples(17, 3).pairs])
        return measure(model.network, model.encode(x)[0])[1].synops_ratio

    assert rate(0.5) < 0.7 * rate(0.0)


def test_validation_loss_includes_the_synops_term(tmp_path):
    model, _, history = convert(tmp_path, synops_weight=0.5, max_epochs=0, deferred=True)
    x = torch.stack([x for x, _ in Examples(17, 3).pairs])
    ratio = measure(model.network, model.encode(x)[0])[1].synops_ratio
    price = (
        history[0].valid_loss + history[0].valid_metric
    )  # the metric is the negated loss of the task
    assert price == pytest.approx(0.5 * ratio, rel=0.1)  # the estimate ignores padding


@pytest.mark.parametrize(
    "settings", [{"synops": 0.8}, {"fan_in": 18, "pruning": "refit", "synops": 0.8}]
)
def test_synops_budget_is_kept(tmp_path, settings):
    """Even if the loss rewards spikes."""

    def firing(prediction, target):
        return -prediction.square().mean()

    model, _, _ = convert(
        tmp_path, loss=firing, max_epochs=0, first_stage_epochs=3, deferred=True, **settings
    )
    examples = Examples(40, 2)
    _, cost = measure(model.network, model.encode(torch.stack([x for x, _ in examples.pairs]))[0])
    assert cost.synops_ratio == pytest.approx(0.8, rel=0.1)  # the estimate ignores padding
