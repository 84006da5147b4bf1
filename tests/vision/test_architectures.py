import pytest
import torch
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.cost import measure
from spikesep.spiking.from_torch.tracing import from_module
from spikesep.vision.architectures import ARCHITECTURES, build, input_shape, short_name


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if not n.startswith("imagenet")])
def test_every_architecture_is_convertible_with_a_norm_in_every_layer(
    name,
):
    network = from_module(build(name))
    assert all(layer.norm is not None for layer in network.layers.values())
    out = network.eval()(torch.rand(1, *input_shape(name)))
    assert out.shape == (1, 784 if name == "autoencoder" else 10)


def test_imagenet_architectures_end_in_a_thousand_classes():
    for name in ("imagenet-alexnet", "imagenet-vgg16"):
        with torch.device("meta"):
            modules = build(name)
        assert modules[-1].out_features == 1000


def test_mnist_network_matches_the_paper():
    """Shapes and multiply-accumulates of 28x28-c16s1-c32s2-c32s1-c64s2-800-10, by hand."""
    modules = build("mnist-cnn").eval()
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, *m.kernel_size, *m.stride) for m in convolutions] == [
        (1, 16, 3, 3, 1, 1), (16, 32, 3, 3, 2, 2), (32, 32, 3, 3, 1, 1), (32, 64, 3, 3, 2, 2),
    ]  # fmt: skip
    linears = [m for m in modules if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(64 * 7 * 7, 800), (800, 10)]
    # Of n positions at stride 1, 3n - 2 taps are on the image; at stride 2, all but one tap.
    taps = [
        (3 * 28 - 2) ** 2 * 16,
        (3 * 14 - 1) ** 2 * 16 * 32,
        (3 * 14 - 2) ** 2 * 32 * 32,
        (3 * 7 - 1) ** 2 * 32 * 64,
    ]
    _, cost = measure(from_module(modules), torch.rand(1, 1, 28, 28))
    assert cost.macs == sum(taps) + 3136 * 800 + 800 * 10


@pytest.mark.parametrize(
    ("name", "depth"), [("vgg9", 9), ("vgg11", 11), ("vgg13", 13), ("vgg16", 16)]
)
def test_vgg_n_has_n_layers_with_weights(name, depth):
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in build(name)) == depth


def test_short_name_of_a_described_network_is_its_depth():
    assert short_name("28x28-c8s2-p2-c8-10") == "3 layers"
    assert short_name("vgg11") == "vgg11"


def test_descriptions_are_accepted():
    modules = build("3x8x8-c4k5s2-p2-6-2")
    assert modules[0].kernel_size == (5, 5)
    assert modules(torch.rand(2, 3, 8, 8)).shape == (2, 2)


ENDLESS = {
    "layers": "28x28-" + "c1-" * 100_000 + "10",
    "filters": "28x28-c1000000000-10",
    "a kernel": f"28x28-c1k{10**30}-10",
    "an input": "1000000x1000000-c1s1000000-10",
    "digits": "28x28-c" + "9" * 5000 + "-10",
    "no stride": "28x28-c8s0-10",
    "no pooling": "28x28-p0-10",
}


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS)
def test_excessive_sizes_are_refused_before_building(monkeypatch, text):
    monkeypatch.setattr(nn.Module, "__init__", lambda self: pytest.fail("a module is built"))
    with pytest.raises(
        SpikeSepError, match=f"architecture {text[:5]}.*(must have|too large)"
    ) as caught:
        build(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    ["vgg12", "28x28", "28x28-m2-10", "28x28-c8", "784-c8-10", "8x8-p2-p2-p2-p2-10", "8x8-10-c4-3"],
)
def test_unknown_architecture_is_refused_by_name(text):
    with pytest.raises(SpikeSepError, match=text):
        build(text)
