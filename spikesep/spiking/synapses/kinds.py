"""The kinds of synapse that convert. A new kind is one class here and an entry in `KINDS`."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.spiking.synapses.connectivity import Connectivity, Pooling
from spikesep.spiking.synapses.modules import ConvTranspose, OneToOne, Synapse, transposed
from spikesep.spiking.synapses.one_to_one import OneToOneConnectivity
from spikesep.spiking.synapses.table import Size, windows

NO_OPS = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)  # fmt: skip
"""Modules that do nothing in inference."""


@dataclass(frozen=True)
class LinearConnectivity(Connectivity):
    """All inputs reach all outputs: `nn.Linear`, on vectors or on flattened maps."""

    def project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `Connectivity`."""
        return F.linear(x, weight, bias)

    def windows(self, image: Size) -> tuple[np.ndarray, np.ndarray, Size]:
        """See `Connectivity`. A Linear behind flattened maps has a tap for each position."""
        n = prod(image)
        entries = np.arange(n, dtype=np.int32)
        if self.flattens:
            return entries[None], entries, ()
        return entries[:, None], np.zeros(1, np.int32), image

    def output_shape(self, shape: Size) -> Size:
        """See `Connectivity`."""
        if shape[-1] != self.in_channels:
            raise ValueError(f"Linear of {self.in_channels} inputs receives {shape[-1]}")
        return (*shape[:-1], self.out_channels)

    @property
    def n_phases(self) -> int:
        """See `Connectivity`."""
        return 1

    @property
    def describe(self) -> str:
        """See `Connectivity`."""
        return f"Linear {self.in_channels}->{self.out_channels}"

    @property
    def out_channels_last(self) -> bool:
        """Outputs are vectors."""
        return True

    @property
    def in_channels_last(self) -> bool:
        """Inputs are vectors, unless they are flattened maps."""
        return not self.flattens

    @property
    def keeps_shape(self) -> bool:
        """See `Connectivity`."""
        return self.in_channels == self.out_channels

    def require_table(self) -> None:
        """See `Connectivity`."""
        super().require_table()
        if self.pooling and not self.flattens:
            raise NotImplementedError("pooling before Linear without Flatten")

    def phases(self, n_taps: int) -> int:
        """See `Connectivity`."""
        return n_taps  # each position of a flattened map has weights of its own


@dataclass(frozen=True)
class ConvConnectivity(Connectivity):
    """`nn.Conv1d` and `nn.Conv2d`: grouped, depthwise, strided, dilated.

    Attributes:
        kernel_size, stride, dilation: one number per dimension.
        padding: as in torch, one number per dimension, "same" or "valid".
        padding_mode: as in torch.
    """

    kernel_size: Size = ()
    stride: Size = ()
    dilation: Size = ()
    padding: Size | str = ()
    padding_mode: str = "zeros"

    def project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `Connectivity`."""
        padding = self.padding
        if self.padding_mode != "zeros":
            sides = [side for pair in reversed(self.margins) for side in pair]
            x, padding = F.pad(x, sides, self.padding_mode), 0
        convolve = F.conv1d if len(self.kernel_size) == 1 else F.conv2d
        return convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    @property
    def margins(self) -> list[tuple[int, int]]:
        """Padding before and behind the input, for each dimension."""
        if not isinstance(self.padding, str):
            return [(size, size) for size in self.padding]
        spans = zip(self.dilation, self.kernel_size, strict=True)
        totals = [d * (k - 1) if self.padding == "same" else 0 for d, k in spans]
        return [(total // 2, total - total // 2) for total in totals]

    def require_table(self) -> None:
        """See `Connectivity`."""
        super().require_table()
        if self.padding_mode != "zeros":
            raise NotImplementedError(f"padding_mode={self.padding_mode!r}")

    def windows(self, image: Size) -> tuple[np.ndarray, np.ndarray, Size]:
        """See `Connectivity`."""
        cells, shape = windows(image, self.kernel_size, self.stride, self.margins, self.dilation)
        return cells, np.arange(cells.shape[1], dtype=np.int32), shape

    def output_shape(self, shape: Size) -> Size:
        """See `Connectivity`."""
        name = f"Conv{len(self.kernel_size)}d"
        if (len(shape), shape[0]) != (1 + len(self.kernel_size), self.in_channels):
            raise ValueError(f"{name} of {self.in_channels} channels receives {list(shape)}")
        sizes = [self.output_size(axis, n) for axis, n in enumerate(shape[1:])]
        if 0 in sizes:
            raise ValueError(f"{name} is larger than the {list(shape)} that it receives")
        return (self.out_channels, *sizes)

    def output_size(self, axis: int, n: int) -> int:
        """Output positions along an axis for n input positions; 0 where the kernel is larger."""
        span = self.dilation[axis] * (self.kernel_size[axis] - 1)
        return max(0, (n + sum(self.margins[axis]) - span - 1) // self.stride[axis] + 1)

    @property
    def n_phases(self) -> int:
        """See `Connectivity`."""
        return prod(self.stride)

    @property
    def n_taps(self) -> int:
        """See `Connectivity`."""
        return prod(self.kernel_size)

    @property
    def describe(self) -> str:
        """See `Connectivity`."""
        groups = f" g{self.groups}" if self.groups > 1 else ""
        kernel, dilation = ("x".join(map(str, n)) for n in (self.kernel_size, self.dilation))
        name = f"{self._name} {self.in_channels}->{self.out_channels}"
        return f"{name} k{kernel} d{dilation}{groups}"

    @property
    def _name(self) -> str:
        return f"Conv{len(self.kernel_size)}d"

    @property
    def keeps_shape(self) -> bool:
        """See `Connectivity`."""
        spans = zip(self.dilation, self.kernel_size, strict=True)
        return (
            self.in_channels == self.out_channels
            and all(stride == 1 for stride in self.stride)
            and self.margins == [(d * (k - 1) // 2,) * 2 for d, k in spans]
            and all(k % 2 for k in self.kernel_size)
        )

    def per_output(self, values: Tensor) -> Tensor:
        """See `Connectivity`."""
        return values.view(-1, *[1] * len(self.kernel_size))

    def zero_padded(self) -> Connectivity:
        """See `Connectivity`."""
        return replace(self, padding_mode="zeros")


@dataclass(frozen=True)
class TransposedConvConnectivity(ConvConnectivity):
    """`ConvTranspose`: input i reaches output i * stride - padding + tap * dilation.

    Attributes:
        output_padding: positions added behind the output, one number per dimension.
    """

    output_padding: Size = ()

    def project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `Connectivity`."""
        padding = tuple(before for before, _ in self.margins)
        sizes = (self.stride, padding, self.output_padding, self.groups, self.dilation)
        return transposed(x, weight, bias, *sizes)

    def windows(self, image: Size) -> tuple[np.ndarray, np.ndarray, Size]:
        """See `Connectivity`. Taps that fall between two inputs read padding."""
        cells = np.zeros((1, 1), np.int64)
        for axis, n in enumerate(image):
            own = self._windows_along(axis, n)
            joint = np.where((cells < 0)[:, None, :, None] | (own < 0)[None, :, None], -1, 0)
            places = cells[:, None, :, None] * n + own[None, :, None]
            cells = np.where(joint < 0, -1, places)
            cells = cells.reshape(cells.shape[0] * cells.shape[1], -1)
        sizes = tuple(self.output_size(axis, n) for axis, n in enumerate(image))
        return cells.astype(np.int32), np.arange(self.n_taps, dtype=np.int32), sizes

    def _windows_along(self, axis: int, n: int) -> np.ndarray:
        """Inputs [n_outputs, kernel_size] of the outputs along an axis, -1 where there is none."""
        outputs, taps = np.arange(self.output_size(axis, n)), np.arange(self.kernel_size[axis])
        reached = outputs[:, None] + self.margins[axis][0] - taps * self.dilation[axis]
        inputs, between = np.divmod(reached, self.stride[axis])
        return np.where((between == 0) & (inputs >= 0) & (inputs < n), inputs, -1)

    def output_size(self, axis: int, n: int) -> int:
        """See `ConvConnectivity`."""
        span = self.dilation[axis] * (self.kernel_size[axis] - 1)
        size = (n - 1) * self.stride[axis] - sum(self.margins[axis]) + span + 1
        return max(0, size + self.output_padding[axis]) if n else 0

    @property
    def n_phases(self) -> int:
        """Each input meets all taps."""
        return 1

    @property
    def keeps_shape(self) -> bool:
        """A residual path around a transposed convolution is not supported."""
        return False

    @property
    def _name(self) -> str:
        return f"ConvTranspose{len(self.kernel_size)}d"


KINDS: dict[type[nn.Module], type[Connectivity]] = {
    nn.Linear: LinearConnectivity,
    nn.Conv1d: ConvConnectivity,
    nn.Conv2d: ConvConnectivity,
    ConvTranspose: TransposedConvConnectivity,
    OneToOne: OneToOneConnectivity,
}
"""The description of each kind of synapse."""
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
SYNAPSES = (*KINDS, *TRANSPOSED)
"""Modules that a layer accepts as its synapse."""


def as_synapse(module: nn.Module) -> Synapse:
    """The module in the weight layout of this package; the module itself where it has that layout.

    Raises:
        ValueError: it is no synapse.
    """
    if isinstance(module, TRANSPOSED):
        return ConvTranspose(module)
    if isinstance(module, tuple(KINDS)):
        return module  # type: ignore[return-value]
    kinds = "Linear, Conv1d, Conv2d, ConvTranspose1d or ConvTranspose2d"
    raise ValueError(f"a synapse is {kinds}, not {type(module).__name__}")


def connectivity_of(synapse: Synapse, before: nn.Module | None = None) -> Connectivity:
    """Describe a synapse and the weightless linear map before it.

    Raises:
        ValueError: the map mixes channels and positions before a convolution.
    """
    pooling, flattens, obstacle = _describe_map(synapse, before)
    sizes: dict[str, Any]
    kind = next(kind for module, kind in KINDS.items() if isinstance(synapse, module))
    if isinstance(synapse, nn.Linear):
        sizes = {"in_channels": synapse.in_features, "out_channels": synapse.out_features}
    elif isinstance(synapse, OneToOne):
        n_channels = len(synapse.weight)
        sizes = {
            **dict.fromkeys(("in_channels", "out_channels", "groups"), n_channels),
            "channels_last": synapse.channels_last,
        }
    else:
        names = ("in_channels", "out_channels", "groups", "kernel_size", "stride", "dilation")
        sizes = {name: getattr(synapse, name) for name in (*names, "padding")}
        for name in ("padding_mode", "output_padding"):
            if name in kind.__dataclass_fields__ and hasattr(synapse, name):
                sizes[name] = getattr(synapse, name)
    return kind(**sizes, pooling=pooling, flattens=flattens, obstacle=obstacle, before=before)


def _describe_map(
    synapse: Synapse, before: nn.Module | None
) -> tuple[tuple[Pooling, ...], bool, str]:
    """The poolings before a synapse, whether it flattens, and why it has no table (or nothing)."""
    parts = tuple(before) if isinstance(before, nn.Sequential) else (before,)
    pooling, flattens, obstacle = [], False, ""
    for module in parts if before is not None else ():
        if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d)):
            pooling.append(Pooling.of(module))
            obstacle = obstacle or pooling[-1].obstacle
        elif isinstance(module, nn.Flatten):
            _check_flatten(module, synapse)
            flattens = True
        elif not isinstance(module, NO_OPS):
            obstacle = obstacle or f"{type(module).__name__} before a synapse"
    return tuple(pooling), flattens, obstacle


def _check_flatten(module: nn.Flatten, synapse: Synapse) -> None:
    if not isinstance(synapse, nn.Linear):
        raise ValueError(
            f"Flatten before {type(synapse).__name__} mixes channels and positions; "
            "take Conv2d all through, or Flatten() before Linear"
        )
    if (module.start_dim, module.end_dim) != (1, -1):
        raise ValueError(f"{module} before it flattens only some dimensions; take Flatten()")
