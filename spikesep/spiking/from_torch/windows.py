"""Adaptive pooling as pooling of a fixed window, for the inputs that it receives."""

from torch import nn

from spikesep.spiking.from_torch.modules import refusal

PLAIN = {
    nn.AdaptiveAvgPool1d: nn.AvgPool1d,
    nn.AdaptiveAvgPool2d: nn.AvgPool2d,
    nn.AdaptiveMaxPool1d: nn.MaxPool1d,
    nn.AdaptiveMaxPool2d: nn.MaxPool2d,
}


def fixed_window(path: str, module: nn.Module, shape: tuple[int, ...] | None) -> nn.Module:
    """The pooling that an adaptive one is for inputs [batch, C, ...] of a shape.

    Raises:
        NotConvertibleError: windows differ in size, or the shape is not known.
    """
    if shape is None:
        why = "its window depends on the input; give an example: from_module(network, example)"
        raise refusal(path, module, why)
    kind = next(plain for adaptive, plain in PLAIN.items() if isinstance(module, adaptive))
    given = module.output_size
    wanted = given if isinstance(given, (tuple, list)) else (given,) * (len(shape) - 2)
    pairs = list(zip(shape[2:], wanted, strict=True))
    pairs = [(n, n if size is None else size) for n, size in pairs]
    if any(n % size for n, size in pairs):
        sizes = " x ".join(f"{n} to {size}" for n, size in pairs)
        raise refusal(path, module, f"its windows differ in size ({sizes}); take {kind.__name__}")
    window = tuple(n // size for n, size in pairs)
    return nn.Identity() if set(window) == {1} else kind(window)
