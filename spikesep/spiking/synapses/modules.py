"""Modules whose weights are synapses and that torch does not have in the form needed."""

from torch import Tensor, nn
from torch.nn import functional as F


class ConvTranspose(nn.Module):
    """`nn.ConvTranspose1d` or `2d` with the weight layout of a convolution, [C_out, C_in / groups,
    *kernel_size].

    Args:
        original: the module to replace. Its weight is shared where the layouts allow.
    """

    bias: nn.Parameter | None

    def __init__(self, original: nn.ConvTranspose1d | nn.ConvTranspose2d):
        super().__init__()
        self.in_channels, self.out_channels = original.in_channels, original.out_channels
        self.kernel_size, self.stride = original.kernel_size, original.stride
        self.output_padding = original.output_padding
        self.padding = tuple(size for size in original.padding if isinstance(size, int))
        self.dilation, self.groups = original.dilation, original.groups
        weight = original.weight.detach().unflatten(0, (self.groups, -1)).transpose(1, 2)
        self.weight = nn.Parameter(weight.flatten(0, 1), original.weight.requires_grad)
        self.bias = None if original.bias is None else nn.Parameter(original.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, C_in, ...] -> [batch, C_out, ...]."""
        sizes = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return transposed(x, self.weight, self.bias, *sizes)

    def extra_repr(self) -> str:
        """The sizes that torch lists for its own convolutions."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"


class CausalConv1d(nn.Conv1d):
    """`nn.Conv1d` that pads only before its input: an output depends on no later input.

    Args:
        in_channels, out_channels, kernel_size, dilation, groups, bias: as of `nn.Conv1d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, dilation=dilation, groups=groups, bias=bias
        )
        self.margins = (dilation * (kernel_size - 1), 0)
        """Padding before and behind the input."""

    def forward(self, input: Tensor) -> Tensor:
        """[batch, C_in, n] -> [batch, C_out, n]."""
        return super().forward(F.pad(input, self.margins))

    def extra_repr(self) -> str:
        """The sizes that torch lists, and the padding."""
        return f"{super().extra_repr()}, margins={self.margins}"


class OneToOne(nn.Module):
    """Synapses of a weight from each input to the neuron in its place: an identity shortcut.

    Args:
        weights: one per channel, [C].
        channels_last: whether inputs are [batch, ..., C] rather than [batch, C, ...].
    """

    bias: None = None

    def __init__(self, weights: Tensor, channels_last: bool = False):
        super().__init__()
        self.channels_last = channels_last
        self.weight = nn.Parameter(weights[:, None], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Each input times the weight of its channel."""
        return scaled(x, self.weight, self.channels_last)


Synapse = nn.Linear | nn.Conv1d | nn.Conv2d | ConvTranspose | OneToOne
"""A module whose weights the synapses of a layer hold."""


def transposed(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, extra, groups: int, dilation
) -> Tensor:
    """Transposed convolution with the weight of a convolution, [C_out, C_in / groups, ...]."""
    weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    convolve = F.conv_transpose1d if weight.ndim == 3 else F.conv_transpose2d
    return convolve(x, weight, bias, stride, padding, extra, groups, dilation)


def scaled(x: Tensor, weight: Tensor, channels_last: bool) -> Tensor:
    """Each channel of [batch, C, ...] or [batch, ..., C] times its weight, [C, 1]."""
    if channels_last:
        return x * weight[:, 0]
    return x * weight.view(-1, *[1] * (x.ndim - 2))
