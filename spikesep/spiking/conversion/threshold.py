"""Threshold LayerNorm (section 3.3): thresholds from percentiles of streamed activations.

The upper bound a_u of a layer is a high percentile of all its activations, and its firing threshold
is a_u / N_s. Activations stream through a histogram, so any number of batches fits in memory.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spikesep.errors import SpikeSepError
from spikesep.spiking.signal import Coding

N_BINS = 8192
MOST_AT_ONCE = 2**24
"""Activations that one call of `torch.histc` takes: it counts in float32, which holds no odd number
above."""
# The lowest are for one or two steps, which must code the activations of most neurons.
PERCENTILES = (40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 93.0, 95.0, 96.0, 97.0)
PERCENTILES += (98.0, 98.5, 99.0, 99.3, 99.5, 99.7, 99.8, 99.9, 99.95, 99.99, 100.0)


class ActivationHistogram:
    """Counts of non-negative activations in equal bins from 0 up.

    The range doubles when a larger activation comes. A percentile is off by at most one bin: the
    largest activation / 4096.
    """

    def __init__(self):
        self.counts = torch.zeros(N_BINS, dtype=torch.float64)
        self.zeros = 0  # among the first bin
        self.top = 0.0

    def update(self, activations: Tensor) -> None:
        """Add a batch, of any shape.

        Raises:
            ValueError: an activation is negative.
            SpikeSepError: an activation is not finite.
        """
        values = activations.detach().float().flatten()
        if not len(values):
            return
        low, high = (float(v) for v in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise SpikeSepError(
                "its activations contain NaN or Inf; look for them in the data and in the weights"
            )
        if low < 0:
            raise ValueError(f"activations must not be negative, found {low}..{high}")
        self.zeros += int((values == 0).sum())
        if self.top == 0:
            self.top = high
        while high > self.top:
            self.top *= 2
            halved = self.counts.view(-1, 2).sum(1)
            self.counts = torch.cat([halved, torch.zeros_like(halved)])
        if self.top == 0:
            self.counts[0] += values.numel()
            return
        for part in values.split(MOST_AT_ONCE):
            self.counts += torch.histc(part, N_BINS, 0, self.top).double().cpu()

    def percentile(self, p: float) -> float:
        """The value that p percent of the activations, zeros included, do not exceed."""
        if not 0 <= p <= 100:
            raise ValueError(f"a percentile lies in 0..100, not {p}")
        cumulated = self.counts.cumsum(0)
        rank = cumulated[-1] * p / 100
        if rank <= self.zeros:
            return 0.0
        index = int(torch.searchsorted(cumulated, rank).clamp(max=N_BINS - 1))
        before = cumulated[index] - self.counts[index]
        inside = ((rank - before) / self.counts[index].clamp(min=1)).clamp(0, 1)
        return (index + float(inside)) * self.top / N_BINS

    def clipped_share(self, upper_bound: float) -> float:
        """Share of the activations above `upper_bound`."""
        return float(self.counts[self._middles() > upper_bound].sum() / self.counts.sum())

    def coding_error(self, upper_bound: float, coding: Coding) -> float:
        """Root mean square error of clipping at `upper_bound` and rounding to N_s levels (eq. 8).

        An initial potential of half a threshold rounds to nearest, one of zero rounds down. Neurons
        that leak or reset to zero fire less.
        """
        values, unit = self._middles(), upper_bound / coding.n_steps
        coded = coding.count(values / unit) * unit
        weight = self.counts.clone()
        weight[0] -= self.zeros  # coded without error
        return float(((coded - values).square() * weight).sum() / self.counts.sum()) ** 0.5

    def best_percentile(self, coding: Coding) -> float:
        """The one of PERCENTILES with the least coding error; few steps favor a lower one."""
        bounds = {p: self.percentile(p) for p in PERCENTILES}
        return min(
            (p for p in PERCENTILES if bounds[p] > 0),
            key=lambda p: self.coding_error(bounds[p], coding),
            default=100.0,
        )

    def summary(self, n_bins: int = 64) -> dict[str, list[float]]:
        """The histogram over `n_bins` bins, for a figure.

        Returns:
            {"edges": [n_bins + 1], "counts": [n_bins]}.
        """
        edges = torch.linspace(0, self.top, n_bins + 1)
        return {"edges": edges.tolist(), "counts": self.counts.view(n_bins, -1).sum(1).tolist()}

    def _middles(self) -> Tensor:
        return (torch.arange(N_BINS, dtype=torch.float64) + 0.5) * self.top / N_BINS


@dataclass
class ThresholdChoice:
    """How the threshold of a layer was set.

    Attributes:
        percentile: percentile of the activations.
        upper_bound: a_u, the activation at it; the threshold is a_u / N_s.
        clipped_share: share of the activations above it.
        histogram: of the activations, see `ActivationHistogram.summary`.
    """

    percentile: float
    upper_bound: float
    clipped_share: float
    histogram: dict = field(default_factory=dict)


def choose_threshold(
    activations: Iterable[Tensor],
    percentile: float | str,
    coding: Coding,
    settled: float | None = None,
) -> ThresholdChoice:
    """Threshold LayerNorm (section 3.3) over streamed activations.

    Args:
        activations: batches of any shape.
        percentile: in 0..100, or "auto" for the one with the least coding error.
        coding: N_s and initial potential.
        settled: an upper bound that the layer has learned with; activations are only described.

    Raises:
        SpikeSepError: all activations up to the percentile are zero.
    """
    histogram = ActivationHistogram()
    for batch in activations:
        histogram.update(batch)
    if settled is not None:
        share = histogram.clipped_share(settled)
        return ThresholdChoice(100 * (1 - share), settled, share, histogram.summary())
    best = histogram.best_percentile(coding)
    p = best if percentile == "auto" else float(percentile)
    upper_bound = histogram.percentile(p)
    if upper_bound <= 0:
        raise SpikeSepError(
            f"no activation lies above zero at percentile {p:g}: the layer is silent; take a "
            "higher percentile or auto, or train the network anew"
        )
    return ThresholdChoice(
        p, upper_bound, histogram.clipped_share(upper_bound), histogram.summary()
    )
