"""A separator that runs on conditioned samples as they arrive, and computes every frame once."""

import torch
from torch import Tensor

from spikesep.separation.model.separator import Separator
from spikesep.spiking.cost import Cost, CostMeter
from spikesep.spiking.streaming.stream import NetworkStream


class SeparatorStream:
    """One mixture on its way through a separator: `push` its conditioned samples, then `flush`.

    The estimates are those of `Separator.separate_conditioned`: to the bit if the mask network is
    in fixed-point form, else up to rounding.

    Args:
        separator: the separator, in inference mode.
    """

    def __init__(self, separator: Separator):
        self._separator, self._meter = separator, CostMeter()
        self._network = NetworkStream(separator.network, self._meter)
        stride, n_speakers = separator.stride, separator.config.n_speakers
        device = next(separator.parameters()).device
        self._n_samples = self._n_returned = 0
        self._samples = torch.zeros(stride, device=device)  # from the first incomplete frame on
        self._encoded: Tensor | None = None  # frames whose masks are not known yet, [1, N, K]
        self._overlap = torch.zeros(n_speakers, stride, dtype=torch.float64, device=device)
        self._n_frames = 0  # decoded

    @property
    def cost(self) -> Cost:
        """Operations so far."""
        if not self._n_samples:
            return Cost()
        self._network.settle()
        return self._separator.with_encoder_and_decoder(self._meter.cost, self._n_samples)

    def push(self, samples: Tensor) -> Tensor:
        """Take the next samples [n], any n.

        Returns:
            Estimates [n_speakers, m] that follow those returned before; m may be 0.
        """
        self._n_samples += len(samples)
        with torch.inference_mode():
            features = self._encode(samples)
            return self._decode(self._network.push(features))

    def flush(self) -> Tensor:
        """End the mixture and return the remaining estimates, [n_speakers, m]."""
        stride, n_left = self._separator.stride, self._n_samples - self._n_returned
        rest = self._samples.new_zeros(stride + -self._n_samples % stride)
        with torch.inference_mode():
            features = self._encode(rest)
            parts = [self._decode(self._network.push(features))]
            parts.append(self._decode(self._network.flush(features)))
        return torch.cat(parts, 1)[:, :n_left]

    def _encode(self, samples: Tensor) -> Tensor:
        """Encode the frames that are complete by now; return the network's input, [1, N, K]."""
        stride = self._separator.stride
        samples = torch.cat([self._samples, samples])
        n_frames = len(samples) // stride - 1
        self._samples = samples[n_frames * stride :].clone()
        if not n_frames:
            return samples.new_zeros(1, self._separator.config.n_filters, 0)
        features, encoded = self._separator.encode_frames(samples[None, : (n_frames + 1) * stride])
        waiting = [] if self._encoded is None else [self._encoded]
        self._encoded = torch.cat([*waiting, encoded], -1)
        return features

    def _decode(self, potential: Tensor) -> Tensor:
        """Decode the next frames; return the samples that are final by now."""
        n, stride = potential.shape[-1], self._separator.stride
        if not n or self._encoded is None:
            return self._overlap[:, :0].float()
        encoded, self._encoded = self._encoded[..., :n], self._encoded[..., n:]
        voices = self._separator.decode_frames(potential, encoded)[0]
        voices[:, :stride] += self._overlap.to(voices)
        self._overlap = voices[:, n * stride :].clone()
        begin = 0 if self._n_frames else stride  # the first frame begins before the mixture
        self._n_frames += n
        final = voices[:, begin : n * stride].float()
        self._n_returned += final.shape[1]
        return final
