import json
from dataclasses import replace

import pytest
import torch
from matplotlib.axes import Axes

from spikesep.errors import SpikeSepError
from spikesep.training.levels_config import LevelsConfig
from spikesep.vision import scoring, stages
from spikesep.vision.config import (
    ExperimentConfig,
    ImageConversionConfig,
    ImageDataConfig,
    ImagePretrainConfig,
    ImageRecipe,
)
from spikesep.vision.data import cache
from spikesep.vision.data.cache import checksum
from spikesep.vision.model import ImageNetwork, load_image_network, save_image_network
from spikesep.vision.report import figures, summary
from spikesep.vision.report import page as results_page


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data set with MNIST's name: class k is a bright square at position k."""
    from safetensors.torch import save_file

    generator, tensors = torch.Generator().manual_seed(0), {}
    for part, n in (("train", 200), ("test", 50)):
        labels = torch.randint(0, 10, (n,), generator=generator)
        images = torch.randint(0, 60, (n, 1, 28, 28), generator=generator)
        for image, k in zip(images, labels.tolist(), strict=True):
            image[
                0, 2 + 5 * (k // 5) * 2 : 10 + 5 * (k // 5) * 2, 5 * (k % 5) : 5 * (k % 5) + 5
            ] = 250
        tensors |= {
            f"{part}_images": images.to(torch.uint8),
            f"{part}_labels": labels.to(torch.uint8),
        }
    folder = tmp_path / "data"
    folder.mkdir()
    save_file(tensors, folder / "mnist.safetensors")
    monkeypatch.setitem(cache.SHA256, "mnist", checksum(tensors))
    return folder


def recipe(task="classification", architecture="28x28-c4s2-p2-12-10", **settings):
    experiment = {
        "task": task,
        "architectures": [architecture],
        "n_seeds": 2,
        "vary": {"convert.n_steps": [8, 2]},
    }
    convert = {
        "patience": 2,
        "max_epochs": 1,
        "batch_size": 32,
        "first_stage_epochs": 2,
        "train_examples": 64,
    }
    return ImageRecipe(
        experiment=ExperimentConfig(**experiment | settings.pop("experiment", {})),
        images=ImageDataConfig(valid_share=0.2),
        train=ImagePretrainConfig(
            epochs=6, batch_size=16, learning_rate=1e-2, warmup_steps=2, precision="float32"
        ),
        convert=ImageConversionConfig(**convert | {"precision": "float32"} | settings),
    )


def run_all(recipe, data, exp):
    for stage in (stages.train_all, stages.convert_all, stages.score_all):
        stage(recipe, data, exp)
    return summary.summarize(recipe, exp, "here")


@pytest.mark.parametrize("task", ["classification", "reconstruction"])
def test_experiment_ends_with_mean_and_spread_over_seeds(data, tmp_path, task):
    architecture = "28x28-c4s2-p2-12-10" if task == "classification" else "784-24-8-24-784"
    setup, exp = recipe(task, architecture), tmp_path / "exp"
    found = run_all(setup, data, exp)
    metric = scoring.METRICS[task]
    by_hand = [
        json.loads((exp / architecture / f"seed{k}" / "n_steps-8" / "scores.json").read_text())[
            metric
        ]
        for k in (0, 1)
    ]
    mean = found["snn"]["8"][metric]
    assert mean["mean"] == pytest.approx(sum(by_hand) / 2)
    assert mean["std"] == pytest.approx(abs(by_hand[0] - by_hand[1]) / 2**0.5)
    assert mean["seeds"] == 2
    assert found["snn"]["2"]["synops_ratio"]["mean"] < found["snn"]["8"]["synops_ratio"]["mean"]
    assert found["reduced"] is False
    if task == "classification":
        assert found["snn"]["8"]["accuracy"]["mean"] > 50
    assert any("SNN, N_s = 2" in row for row in results_page.table(json.loads(json.dumps(found))))
    drawn = figures.draw(setup, data, exp, found, tmp_path / "figures")
    assert len(drawn) == (3 if task == "classification" else 4)
    assert all(path.stat().st_size > 1000 for path in drawn)


def test_score_is_that_of_the_saved_network_on_the_test_set(data, tmp_path):
    setup, exp = (
        recipe(experiment={"n_seeds": 1, "vary": {"convert.n_steps": [4]}}),
        tmp_path / "exp",
    )
    found = run_all(setup, data, exp)
    model = load_image_network(exp / "28x28-c4s2-p2-12-10" / "seed0" / "n_steps-4" / "snn")
    test = stages.images_of(setup, data).test
    with torch.no_grad():
        correct = (model(test.batch(list(range(50)))[0]).argmax(1) == test.labels).double().mean()
    assert found["snn"]["4"]["accuracy"]["mean"] == pytest.approx(100 * float(correct))


def test_complete_runs_are_not_repeated_and_other_settings_are_refused(data, tmp_path, capsys):
    setup, exp = (
        recipe(experiment={"n_seeds": 1, "vary": {"convert.n_steps": [4]}}, max_epochs=0),
        tmp_path / "exp",
    )
    run_all(setup, data, exp)
    capsys.readouterr()
    run_all(setup, data, exp)
    assert capsys.readouterr().out.count("is there and complete") == 4
    with pytest.raises(SpikeSepError, match=r"train\.epochs"):
        stages.train_all(replace(setup, train=replace(setup.train, epochs=9)), data, exp)
    fewer = replace(setup, images=replace(setup.images, test_examples=9))
    for stage in (
        stages.score_all,
        lambda recipe, data, exp: summary.summarize(recipe, exp, "here"),
    ):
        with pytest.raises(SpikeSepError, match=r"images\.test_examples"):
            stage(fewer, data, exp)


def test_weight_bits_convert_to_fixed_point(data, tmp_path):
    setup = recipe(
        experiment={"n_seeds": 1, "vary": {"convert.weight_bits": [0, 4]}}, max_epochs=0, n_steps=4
    )
    run_all(setup, data, tmp_path / "exp")
    networks = [
        load_image_network(
            tmp_path / "exp" / "28x28-c4s2-p2-12-10" / "seed0" / f"weight_bits-{bits}" / "snn"
        ).network
        for bits in (0, 4)
    ]
    assert [network.is_fixed_point for network in networks] == [False, True]
    assert max(int(layer.fixed.weight.abs().max()) for layer in networks[1].layers.values()) == 7


@pytest.mark.parametrize("method", ["ptl", "tandem", "surrogate", "rate"])
def test_every_method_yields_a_spiking_network(data, tmp_path, method):
    experiment = {"n_seeds": 1, "vary": {"convert.method": [method]}}
    setup = recipe(
        experiment=experiment, n_steps=6, untrained=method != "ptl", first_stage_learning_rate=1e-2
    )
    setup.convert.first_stage_epochs = 8 if method in ("tandem", "surrogate") else 1
    found = run_all(setup, data, tmp_path / "exp")
    folder = tmp_path / "exp" / "28x28-c4s2-p2-12-10" / "seed0" / f"method-{method}"
    assert all(
        layer.mode == "spiking"
        for layer in load_image_network(folder / "snn").network.layers.values()
    )
    assert found["snn"][method]["accuracy"]["mean"] > 30
    assert (found["snn"][method]["epochs"]["mean"] == 0) == (method == "rate")


def test_depth_figure_has_a_panel_per_method(data, tmp_path, monkeypatch):
    vary = {"convert.method": ["ptl", "tandem"], "convert.deferred": [True]}
    setup = recipe(experiment={"n_seeds": 1, "name": "fig4", "vary": vary}, max_epochs=1)
    found = run_all(setup, data, tmp_path / "exp")
    assert sum("SNN, deferred = True" in row for row in results_page.table(found)) == 1
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda axes, title, **how: titles.append(title))
    figures.depth_figure(found, tmp_path / "fig4.png")
    assert titles == ["ANN", "SNN, progressive", "SNN, tandem end to end", "SNN, deferred"]


@pytest.mark.parametrize("limits", [{"qat_bits": 4}, {"fan_in": 9}, {"qat_bits": 3, "fan_in": 5}])
def test_saved_model_obeys_the_hardware_limits(data, tmp_path, limits):
    setup = recipe(experiment={"n_seeds": 1, "vary": {"convert.n_steps": [4]}}, **limits)
    exp = tmp_path / "exp"
    run_all(setup, data, exp)
    network = load_image_network(
        exp / "28x28-c4s2-p2-12-10" / "seed0" / "n_steps-4" / "snn"
    ).network
    pooling = [1, 4, 1]
    synapses = [
        *((la.synapse, la.limiter) for la in network.layers.values()),
        (network.readout.synapse, network.readout.limiter),
    ]
    for (synapse, limiter), n_pooled in zip(synapses, pooling, strict=True):
        if "fan_in" in limits:
            inputs = (synapse.weight != 0).flatten(1).sum(1) * n_pooled
            assert int(inputs.max()) <= limits["fan_in"]
        if "qat_bits" in limits:
            levels = 2 ** (limits["qat_bits"] - 1) - 1
            for values, scale in (
                (synapse.weight, limiter.weight_scale),
                (synapse.bias, limiter.bias_scale),
            ):
                k = values / scale
                torch.testing.assert_close(k, k.round(), rtol=0, atol=1e-5)
                assert float(k.abs().max()) <= levels + 1e-4


def test_saved_network_is_loaded_unchanged(tmp_path):
    torch.manual_seed(0)
    model = ImageNetwork("28x28-c4s2-12-10", "classification").eval()
    save_image_network(model, tmp_path / "m")
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(load_image_network(tmp_path / "m")(x), model(x))


def test_architecture_with_another_input_shape_is_refused(data, tmp_path):
    with pytest.raises(SpikeSepError, match="3x32x32"):
        stages.train_all(recipe(architecture="3x32x32-c4-10"), data, tmp_path / "exp")


def test_unknown_setting_cannot_be_varied():
    with pytest.raises(SpikeSepError, match=r"vary convert\.steps: not a setting of the section"):
        ExperimentConfig(vary={"convert.steps": [1]})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("method", "tandm"),
        ("gradient", 1),
        ("n_steps", "a"),
        ("n_steps", 8.5),
        ("deferred", 1),
        ("percentile", True),
    ],
)
def test_invalid_value_of_a_varied_setting_is_refused(setting, value):
    with pytest.raises(SpikeSepError, match=rf"convert\.{setting}: {value!r} is not a value"):
        ExperimentConfig(vary={f"convert.{setting}": [value]})


@pytest.mark.parametrize(
    ("vary", "given", "message"),
    [
        ({"convert.n_steps": [4, -1]}, {}, "--convert.n_steps -1"),
        ({"convert.weight_bits": [8]}, {"qat_bits": 9}, "at least --convert.qat_bits, 9"),
    ],
)
def test_contradictory_values_of_varied_settings_are_refused(vary, given, message):
    with pytest.raises(SpikeSepError, match=message):
        recipe(experiment={"vary": vary}, **given)


@pytest.mark.parametrize("fresh", ["first", "all"])
def test_controls_are_converted_trained_and_shown_beside_the_experiment(data, tmp_path, fresh):
    printed = {
        "convert.encoding": "impulse",
        "convert.initial_potential": 0.0,
        "convert.percentile": 99.9,
        "convert.discretize": False,
        "convert.fresh_examples": fresh,
    }
    experiment = {
        "n_seeds": 1,
        "vary": {"convert.n_steps": [4]},
        "variants": {"as-printed": printed},
        "train_on": True,
    }
    setup, exp = recipe(experiment=experiment), tmp_path / "exp"
    found = run_all(setup, data, exp)
    folder = exp / "28x28-c4s2-p2-12-10" / "seed0"
    coding = json.loads((folder / "variant-as-printed" / "snn" / "config.json").read_text())
    assert coding["coding"]["encoding"] == "impulse"
    assert coding["coding"]["initial_potential"] == 0
    epochs = found["snn"]["4"]["epochs"]["mean"]
    assert epochs == found["train_on"]["epochs"]["mean"] > 0
    assert len((folder / "train_on" / "history.csv").read_text().splitlines()) == 1 + epochs
    rows = results_page.table(json.loads(json.dumps(found)))
    assert sum("SNN, variant = as-printed" in row for row in rows) == 1
    assert sum("ANN, trained on" in row for row in rows) == 1


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a/b": {"convert.n_steps": 4}}, "names a folder"),
        ({"a": {"convert.steps": 4}}, "not a setting"),
        ({"a": {"convert.n_steps": 4.5}}, "not a value"),
        ({"a": {"convert.n_steps": -1}}, "--convert.n_steps"),
    ],
)
def test_impossible_variant_is_refused(variants, message):
    with pytest.raises(SpikeSepError, match=message):
        recipe(experiment={"variants": variants})


def test_page_shows_each_experiments_own_figures(data, tmp_path):
    folder = tmp_path / "results"
    for name in ("", "a", "a-b"):
        setup = recipe(
            experiment={"n_seeds": 1, "name": name, "vary": {"convert.n_steps": [2]}}, max_epochs=0
        )
        found = run_all(setup, data, tmp_path / "exp")
        own = folder if name else tmp_path / "nameless" / "results"
        own.mkdir(parents=True, exist_ok=True)
        figures.draw(setup, data, tmp_path / "exp", found, own)
        (own / f"{name or 'results'}.json").write_text(json.dumps(found))
    page = results_page.markdown(folder, "x")
    assert page.count("![a](results/a-training.png)") == 1
    assert page.count("![a-b](results/a-b-training.png)") == 1
    assert "![a](results/a-b-" not in page
    nameless = results_page.markdown(tmp_path / "nameless" / "results", "x")
    assert "## Results\n" in nameless
    assert "](results/training.png)" in results_page.markdown(
        tmp_path / "nameless" / "results", "x"
    )


def test_page_includes_the_papers_results(data, tmp_path):
    experiment = {
        "n_seeds": 1,
        "name": "table3",
        "architectures": ["autoencoder"],
        "reduced": "a test",
    }
    setup = recipe("reconstruction", "autoencoder", experiment=experiment)
    found = run_all(setup, data, tmp_path / "exp")
    page = "\n".join(results_page.section(json.loads(json.dumps(found))))
    assert "(reduced)" in page
    assert "a test" in page
    row = next(line for line in page.splitlines() if "N_s = 8" in line)
    assert "0.02361" in row


def test_networks_with_levels_convert_without_loss_in_other_steps_at_one_bound(data, tmp_path):
    levels = LevelsConfig(n_steps=8, kind="lsq", target_rate=0.1)
    setup = recipe(experiment={"n_seeds": 1}, deferred=True, max_epochs=0, first_stage_epochs=0)
    setup = replace(setup, train=replace(setup.train, levels=levels))
    found = run_all(setup, data, tmp_path)
    ann = found["ann"]["accuracy"]["mean"]
    assert ann > 50
    assert found["snn"]["8"]["accuracy"]["mean"] == ann
    folder = tmp_path / "28x28-c4s2-p2-12-10" / "seed0"
    analog = load_image_network(folder / "ann")
    for n_steps in (8, 2):
        spiking = load_image_network(folder / f"n_steps-{n_steps}" / "snn")
        for one, other in zip(spiking.network.parts[:-1], analog.network.parts, strict=False):
            bound = 8 * float(other.levels.step.detach())
            assert n_steps * float(one.threshold) == pytest.approx(bound)
