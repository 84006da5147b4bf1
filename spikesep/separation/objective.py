"""Losses of the separator: permutation-invariant, over batches of estimates and sources.

`NegativeSiSdr` is that of the paper and suits mixtures in which every source speaks. `NegativeSnr`
also knows sources that are silent, and keeps the scale of the voices.
"""

import torch
from asteroid.losses import PITLossWrapper, pairwise_neg_sisdr
from torch import Tensor, nn

MAX_SNR_DB = 30.0
"""SNR and SI-SDR beyond which `NegativeSnr` rewards little."""
MAX_SILENCE_DB = 20.0
"""Distance below the mixture at which `NegativeSnr` takes an output for silent."""
FAINTEST = 1e-8
"""Power relative to the sum of the sources below which an estimate has no shape."""
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
    """Permutation-invariant negative SNR and SI-SDR in dB, for sources that may be absent.

    Of a source that speaks, the loss is the mean of SNR, which keeps the scale, and SI-SDR. With
    SNR alone, networks learn from single voices to keep everything on one output: for an output
    that has become silent, a bit of its voice gains nothing in SNR, but all in SI-SDR. Where a
    source is absent, the loss is the level of its estimate relative to the sum of the sources.
    Thresholds bound all three, so that easy examples do not dominate (Wisdom et al., "What's all
    the FUSS about free universal sound separation data?", ICASSP 2021, eqs. 2 and 3).
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
        power = sources.square().mean(-1)[:, None]  # [B, 1, n_sources]
        total = sources.sum(1).square().mean(-1)[:, None, None].clamp_min(MIN_POWER)
        is_present = power > SILENCE * total
        reference = torch.where(is_present, power, total)
        error = (estimates[:, :, None] - sources[:, None]).square().mean(-1)
        # Of an estimate, the part that is the source at some level; the rest is distortion. Not a
        # matrix product, which autocast would round.
        product = (estimates[:, :, None] * sources[:, None]).mean(-1)
        target = product.square() / power.clamp_min(SILENCE * MIN_POWER)
        distortion = (estimates.square().mean(-1)[:, :, None] - target).clamp_min(0.0)
        faintest = FAINTEST * total
        snr = _decibels(error / reference, MAX_SNR_DB)
        si_sdr = _decibels((distortion + faintest) / (target + faintest), MAX_SNR_DB)
        silence = _decibels(error / reference, MAX_SILENCE_DB)
        return torch.where(is_present, (snr + si_sdr) / 2, silence)


def _decibels(ratio: Tensor, threshold: float) -> Tensor:
    """Return power ratios in dB, with little reward below a negative threshold."""
    return 10 * torch.log10(ratio + 10 ** (-threshold / 10))


LOSSES = {"si_sdr": NegativeSiSdr, "snr": NegativeSnr}
"""Losses by their name in the settings (`train.loss`)."""


def knows_silence(loss: str) -> bool:
    """Return whether a loss of this name is defined where a source is silent."""
    return loss == "snr"
