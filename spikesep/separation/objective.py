"""Losses of the separator: permutation-invariant, over batches of estimates and sources.

`NegativeSiSdr` is that of the paper and suits mixtures in which every source speaks. `NegativeSnr`
also knows sources that are silent, and keeps the scale of the voices.
"""

import torch
from asteroid.losses import PITLossWrapper, pairwise_neg_sisdr
from torch import Tensor, nn

MAX_SNR_DB = 30.0
"""SNR beyond which `NegativeSnr` rewards little; silence is rewarded down to the same level."""
SILENCE = 1e-6
"""Power relative to the sum of the sources below which a source is absent."""

MIN_POWER = 1e-6
"""Smallest reference, for crops in which nobody speaks; full scale is 1."""


class NegativeSiSdr:
    """Permutation-invariant negative SI-SDR in dB of zero-mean signals (eq. 14)."""

    def __init__(self):
        self._pit = PITLossWrapper(pairwise_neg_sisdr, pit_from="pw_mtx")

    def __call__(self, estimates: Tensor, sources: Tensor) -> Tensor:
        """Return the mean over batch and speakers of signals [B, n_speakers, T]."""
        return self._pit(estimates, sources)


class NegativeSnr:
    """Permutation-invariant negative SNR in dB with a threshold, for sources that may be absent.

    The error of an estimate is relative to its source or, where the source is absent, to the sum of
    the sources. A threshold of `MAX_SNR_DB` below this reference bounds the loss, so that easy
    examples do not dominate (Wisdom et al., "What's all the FUSS about free universal sound
    separation data?", ICASSP 2021, eqs. 2 and 3).
    """

    def __init__(self):
        self._pit = PITLossWrapper(_PairwiseNegativeSnr(), pit_from="pw_mtx")

    def __call__(self, estimates: Tensor, sources: Tensor) -> Tensor:
        """Return the mean over batch and speakers of signals [B, n_speakers, T]."""
        return self._pit(estimates, sources)


class _PairwiseNegativeSnr(nn.Module):
    """Loss in dB of every estimate against every source."""

    def forward(self, estimates: Tensor, sources: Tensor) -> Tensor:
        """Return [B, n_estimates, n_sources] for signals [B, n, T]."""
        power = sources.square().mean(-1)  # [B, n_sources]
        total = sources.sum(1).square().mean(-1, keepdim=True)
        reference = torch.where(power > SILENCE * total, power, total)
        reference = reference.clamp_min(MIN_POWER)[:, None]
        error = (estimates[:, :, None] - sources[:, None]).square().mean(-1)
        return 10 * torch.log10(error / reference + 10 ** (-MAX_SNR_DB / 10))


LOSSES = {"si_sdr": NegativeSiSdr, "snr": NegativeSnr}
"""Losses by their name in the settings (`train.loss`)."""


def knows_silence(loss: str) -> bool:
    """Return whether a loss of this name is defined where a source is silent."""
    return loss == "snr"
