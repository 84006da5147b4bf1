"""The kinds of synapse that convert. A new kind is one class here and an entry in `KINDS`."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.spiking.synapses.connectivity import Connectivity, Pooling
from spikesep.spiking.synapses.convolution import ConvConnectivity, TransposedConvConnectivity
from spikesep.spiking.synapses.modules import CausalConv1d, ConvTranspose, OneToOne, Synapse
from spikesep.spiking.synapses.one_to_one import OneToOneConnectivity
from spikesep.spiking.synapses.table import Size

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
        if isinstance(synapse, CausalConv1d):
            sizes["padding"] = (synapse.margins,)
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
