"""The connectivity of convolutions, also of those that pad on one side and of parts of signals."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from spikesep.spiking.synapses.connectivity import Connectivity
from spikesep.spiking.synapses.modules import transposed
from spikesep.spiking.synapses.table import Size, windows

Margins = tuple[tuple[int, int], ...]
"""Padding before and behind the input, for each dimension."""


@dataclass(frozen=True)
class ConvConnectivity(Connectivity):
    """`nn.Conv1d` and `nn.Conv2d`: grouped, depthwise, strided, dilated.

    Attributes:
        kernel_size, stride, dilation: one number per dimension.
        padding: as in torch, one number per dimension, "same" or "valid"; or for each dimension
            a pair, the padding before and behind the input.
        padding_mode: as in torch.
    """

    kernel_size: Size = ()
    stride: Size = ()
    dilation: Size = ()
    padding: Size | Margins | str = ()
    padding_mode: str = "zeros"

    def project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `Connectivity`."""
        padding: Any = self.padding
        if self.padding_mode != "zeros" or self.margins != [pair[::-1] for pair in self.margins]:
            sides = [side for pair in reversed(self.margins) for side in pair]
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x, padding = F.pad(x, sides, mode), 0
        elif not isinstance(padding, str):
            padding = tuple(before for before, _ in self.margins)
        convolve = F.conv1d if len(self.kernel_size) == 1 else F.conv2d
        return convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    @property
    def margins(self) -> list[tuple[int, int]]:
        """Padding before and behind the input, for each dimension."""
        if not isinstance(self.padding, str):
            return [size if isinstance(size, tuple) else (size, size) for size in self.padding]
        spans = zip(self.dilation, self.kernel_size, strict=True)
        totals = [d * (k - 1) if self.padding == "same" else 0 for d, k in spans]
        return [(total // 2, total - total // 2) for total in totals]

    @property
    def is_pointwise(self) -> bool:
        """Whether it is one matrix for [batch, C, positions], and each position reads itself."""
        alone = self.groups == 1 and self.before is None and self.margins == [(0, 0)]
        return alone and (self.kernel_size, self.stride) == ((1,), (1,))

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
        spans = zip(self.margins, self.dilation, self.kernel_size, strict=True)
        return (
            self.in_channels == self.out_channels
            and all(stride == 1 for stride in self.stride)
            and all(sum(pair) == d * (k - 1) and not pair[0] % d for pair, d, k in spans)
        )

    @property
    def home(self) -> Size:
        """See `Connectivity`."""
        pairs = zip(self.margins, self.dilation, strict=True)
        return tuple(before // d for (before, _), d in pairs)

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


@dataclass(frozen=True)
class PartialConvConnectivity(ConvConnectivity):
    """A convolution whose input is the part of a signal that some of its outputs read.

    Attributes:
        begin: position of the first output among these inputs.
    """

    begin: int = 0

    def own(self, x: Tensor) -> Tensor:
        """See `Connectivity`."""
        return x.narrow(-1, self.begin, self.output_size(0, x.shape[-1]))
