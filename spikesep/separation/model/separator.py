"""The separator of the paper (section 6.3.2, Fig. 7B): encoder, norm, mask network, decoder.

The mask network is a `SpikingNetwork`: it is trained analog and converted layer by layer.

    mixture [B, T] -> encoder -> w [B, N, K]
    w -> channel norm -> mask network -> sigmoid -> masks [B, S, N, K]
    w * masks -> decoder -> estimates [B, S, T]
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from asteroid_filterbanks import Decoder, Encoder, make_enc_dec
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.separation.audio.conditioning import CAUSAL_LOOK_AHEAD, LOOK_AHEAD, Conditioner
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.mask_network import mask_network
from spikesep.separation.model.separator_cost import decoder_operations, encoder_operations
from spikesep.spiking.cost import Cost, CostMeter
from spikesep.spiking.network import Observer
from spikesep.spiking.streaming.reach import Reach, reach_of
from spikesep.training.conversion.model import ConvertibleModel
from spikesep.training.records.model_folder import load_model, save_model

KIND = "spikesep-separator"
BLOCK_FRAMES = 256
"""Frames that are encoded and decoded at once."""


class ChannelNorm(nn.Module):
    """Normalizes each frame over its channels, then applies a trainable gain and bias per channel.

    Args:
        n_channels: number of channels.
        eps: added to the variance.
    """

    def __init__(self, n_channels: int, eps: float = 1e-8):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n_channels, 1))
        self.bias = nn.Parameter(torch.zeros(n_channels, 1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [B, N, K]."""
        centred = x - x.mean(1, keepdim=True)
        # Many times faster than torch.var over this dimension.
        variance = centred.square().mean(1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps) * self.gain + self.bias


class Separator(ConvertibleModel):
    """A Conv-TasNet-like separator whose mask network can spike.

    Args:
        config: sizes of the layers.
    """

    def __init__(self, config: SeparatorConfig):
        super().__init__()
        self.config = config
        self.stride = config.kernel_size // 2
        encoder, decoder = make_enc_dec(
            "free", n_filters=config.n_filters, kernel_size=config.kernel_size, stride=self.stride
        )
        self.encoder, self.decoder = cast(Encoder, encoder), cast(Decoder, decoder)
        self.norm = ChannelNorm(config.n_filters)
        self.network = mask_network(config)

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz."""
        return self.config.sample_rate

    @property
    def reach(self) -> Reach:
        """The frames of the mask network's input on which one frame of its output depends."""
        return reach_of(self.network)

    @property
    def look_ahead(self) -> int:
        """Number of samples from a sample on that its estimates can depend on.

        At least one encoder window: the last frame that covers the sample ends there.
        """
        return self.reach.ahead * self.stride + self.config.kernel_size

    @property
    def context(self) -> int:
        """Number of samples on either side of a sample that its estimates can depend on."""
        return max(self.look_ahead, self.reach.back * self.stride + self.config.kernel_size)

    @property
    def kind(self) -> str:
        """`snn` if all layers of the mask network spike, else `ann`."""
        return "snn" if self.network.n_converted == len(self.network) else "ann"

    def forward(self, mixture: Tensor, observe: Observer | None = None) -> Tensor:
        """Estimate the voices [B, n_speakers, T] in mixtures [B, T]."""
        features, context = self.encode(mixture)
        return self.decode(self.network(features, observe), context)

    def encode(self, mixture: Tensor) -> tuple[Tensor, tuple[Tensor, int]]:
        """Return the input of the mask network [B, N, K] and the context for `decode`.

        The context is the encoded mixture [B, N, K] and the number of samples T.
        """
        encoded = F.relu(self.encoder(self._padded(mixture)[:, None]))
        return self.norm(encoded), (encoded, mixture.shape[-1])

    def decode(self, potential: Tensor, context: tuple[Tensor, int]) -> Tensor:
        """Estimate voices [B, S, T] from readout potentials [B, S * N, K] and the context."""
        encoded, n_samples = context
        masks = torch.sigmoid(potential).unflatten(1, (self.config.n_speakers, -1))
        estimates = self.decoder((masks * encoded[:, None]).float())
        return estimates[..., self.stride : self.stride + n_samples]

    def front(self) -> list[nn.Module]:
        """List the modules that `encode` runs."""
        return [self.encoder, self.norm]

    def separate(self, mixture: Tensor, observe: Observer | None = None) -> Tensor:
        """Estimate the voices [n_speakers, T] in one mixture [T], in inference mode.

        Neither offset nor level of the mixture matters; see `Conditioner`.
        """
        conditioner, given = self.conditioner(), mixture.detach().cpu().numpy()
        conditioned = np.concatenate([conditioner.push(given), conditioner.flush()], axis=1)
        samples, factor = torch.from_numpy(conditioned).to(mixture.device)
        return self.separate_conditioned(samples, observe) * factor

    def separate_with_cost(self, mixture: Tensor) -> tuple[Tensor, Cost]:
        """Separate like `separate`; also return the cost."""
        meter = CostMeter()
        estimates = self.separate(mixture, meter)
        return estimates, self.with_encoder_and_decoder(meter.cost, mixture.shape[-1])

    def with_encoder_and_decoder(self, cost: Cost, n_samples: int) -> Cost:
        """Complete the cost of the mask network for a mixture of n_samples."""
        return replace(
            cost,
            encoder=encoder_operations(self.config, n_samples),
            decoder=decoder_operations(self.config, n_samples),
        )

    def conditioner(self) -> Conditioner:
        """Open the conditioner of a mixture; that of a causal separator hardly looks ahead."""
        cells = CAUSAL_LOOK_AHEAD if self.config.causal else LOOK_AHEAD
        return Conditioner(self.sample_rate, cells)

    def separate_conditioned(self, mixture: Tensor, observe: Observer | None = None) -> Tensor:
        """Estimate the voices [n_speakers, T] in conditioned samples [T], in inference mode."""
        with torch.inference_mode():
            features, (encoded, n_samples) = self.encode_in_float64(mixture[None])
            frames = self.decode_frames(self.network(features, observe), encoded)
        return frames[0, :, self.stride : self.stride + n_samples].float()

    def encode_in_float64(self, mixture: Tensor) -> tuple[Tensor, tuple[Tensor, int]]:
        """Encode like `encode`, but in float64, and round the result to float32.

        The features of a sample then do not depend on the length of the block around it. The last
        digit of float32 sums would, which can add or remove a spike.
        """
        features, encoded = self.encode_frames(self._padded(mixture))
        return features, (encoded, mixture.shape[-1])

    def encode_frames(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the complete frames in samples [B, T] as `encode_in_float64` does.

        Returns:
            The input of the mask network and the encoded mixture, float32, [B, N, K].
        """
        number = _exact_dtype(samples)
        filters = self.encoder.filterbank.filters()[:, 0].to(number)
        windows = samples.to(number).unfold(1, self.config.kernel_size, self.stride)
        shape = (len(samples), len(filters), windows.shape[1])
        features, encoded = (samples.new_empty(shape, dtype=torch.float32) for _ in range(2))
        for own in frame_blocks(windows.shape[1]):
            of_block = F.relu(filters @ windows[:, own].mT)
            encoded[..., own] = of_block
            features[..., own] = self.norm(of_block)
        return features, encoded

    def decode_frames(self, potential: Tensor, encoded: Tensor) -> Tensor:
        """Decode frames like `decode`, in float64 like `encode_in_float64`, and add them up.

        Args:
            potential: of the readout, [B, S * N, K].
            encoded: the encoded mixture, [B, N, K].

        Returns:
            [B, S, (K + 1) * stride], from the first sample of the first frame on, not rounded.
        """
        number, n_frames = _exact_dtype(potential), potential.shape[-1]
        filters = self.decoder.filterbank.filters()[:, 0].T.to(number)
        of_voices = potential.unflatten(1, (self.config.n_speakers, -1))
        shape = (*of_voices.shape[:2], n_frames, 2, self.stride)  # both halves of each window
        halves = potential.new_empty(shape, dtype=number)
        for own in frame_blocks(n_frames):
            masks = torch.sigmoid(of_voices[..., own].to(number))
            windows = filters @ (masks * encoded[:, None, :, own])
            halves[:, :, own] = windows.mT.unflatten(-1, (2, self.stride))
        voices = F.pad(halves[..., 0, :], (0, 0, 0, 1))
        voices[:, :, 1:] += halves[..., 1, :]
        return voices.flatten(2)

    def _padded(self, mixture: Tensor) -> Tensor:
        """Pad [B, T] so that two frames cover every sample and the last frame is complete."""
        tail = -mixture.shape[-1] % self.stride
        return F.pad(mixture, (self.stride, self.stride + tail))


def frame_blocks(n_frames: int) -> Iterator[slice]:
    """Runs of frames whose intermediate values stay in the second-level cache."""
    return (slice(k, k + BLOCK_FRAMES) for k in range(0, n_frames, BLOCK_FRAMES))


def _exact_dtype(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64  # mps has no float64


def save_separator(
    model: Separator,
    path: str | Path,
    report: list[dict] | None = None,
    card: str | None = None,
    half: bool = False,
) -> None:
    """Write a separator as a folder or a single `.safetensors` file.

    Args:
        model: the separator.
        path: a folder, or a file that ends in `.safetensors`.
        report: report of its conversion.
        card: its model card.
        half: store weights in 16 bits; see `spikesep.training.records.model_folder`.
    """
    save_model(model, path, KIND, asdict(model.config), report=report, card=card, half=half)


def load_separator(path: str | Path) -> Separator:
    """Load what `save_separator` wrote, in inference mode. No code from the model is executed.

    Raises:
        SpikeSepError: it does not exist, is incomplete, or its checksum does not match.
    """
    return load_model(path, KIND, lambda settings: Separator(SeparatorConfig(**settings)))
