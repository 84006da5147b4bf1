"""The separator of the paper (section 6.3.2, Fig. 7B): encoder, channel norm, a stack of convolutions that estimates a
mask for each speaker, decoder. The stack is a `SpikingNetwork`: it is trained analog and converted layer by layer.

    mixture [B, T] -> encoder -> w [B, N, K] -> channel norm -> stack -> sigmoid -> masks [B, S, N, K]
                                 w * masks -> decoder -> estimates [B, S, T]
"""

from dataclasses import asdict
from pathlib import Path

import torch
from asteroid_filterbanks import make_enc_dec
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.separation.config import SeparatorConfig
from spikesep.spiking.cost import Cost, CostMeter
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import Observer, SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.training.records.model_folder import load_model, save_model

KIND = "spikesep-separator"
RESIDUAL_GAIN = 0.5
"""Of a norm beside a residual path, at first: each layer adds less than it hands on."""


class ChannelNorm(nn.Module):
    """Zero mean and unit variance over the channels of each frame, then a trainable gain and bias a channel."""

    def __init__(self, n_channels: int, eps: float = 1e-8):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n_channels, 1))
        self.bias = nn.Parameter(torch.zeros(n_channels, 1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, K] -> [B, N, K]."""
        centred = x - x.mean(1, keepdim=True)
        variance = centred.square().mean(
            1, keepdim=True
        )  # many times faster than torch.var over this dimension
        return centred * torch.rsqrt(variance + self.eps) * self.gain + self.bias


class Separator(nn.Module):
    """A Conv-TasNet-like separator whose mask network can spike.

    Args:
        config: its sizes.
    """

    def __init__(self, config: SeparatorConfig):
        super().__init__()
        self.config = config
        self.stride = config.kernel_size // 2
        self.encoder, self.decoder = make_enc_dec(
            "free", n_filters=config.n_filters, kernel_size=config.kernel_size, stride=self.stride
        )
        self.norm = ChannelNorm(config.n_filters)
        self.network = mask_network(config)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def context(self) -> int:
        """Samples on either side of a sample that its estimates can depend on."""
        frames = sum(d * (self.config.conv_kernel_size // 2) for d in self.config.dilations)
        return frames * self.stride + 2 * self.config.kernel_size

    @property
    def kind(self) -> str:
        """`snn` once all layers of the stack spike, `ann` before."""
        return "snn" if self.network.n_converted == len(self.network) else "ann"

    def forward(self, mixture: Tensor, observe: Observer | None = None) -> Tensor:
        """Estimates [B, n_speakers, T] of the voices in mixture [B, T]."""
        features, context = self.encode(mixture)
        return self.decode(self.network(features, observe), context)

    def encode(self, mixture: Tensor) -> tuple[Tensor, tuple[Tensor, int]]:
        """The stack's input [B, N, K]; and what `decode` needs: the encoded mixture [B, N, K] and T."""
        encoded = F.relu(self.encoder(self._padded(mixture)[:, None]))
        return self.norm(encoded), (encoded, mixture.shape[-1])

    def decode(self, potential: Tensor, context: tuple[Tensor, int]) -> Tensor:
        """Estimates [B, S, T] from the readout potential [B, S * N, K] and the context from `encode`."""
        encoded, n_samples = context
        masks = torch.sigmoid(potential).unflatten(1, (self.config.n_speakers, -1))
        estimates = self.decoder((masks * encoded[:, None]).float())
        return estimates[..., self.stride : self.stride + n_samples]

    def front(self) -> list[nn.Module]:
        """The modules that `encode` runs."""
        return [self.encoder, self.norm]

    def separate(self, mixture: Tensor, observe: Observer | None = None) -> Tensor:
        """Estimates [n_speakers, T] of the voices in mixture [T], in inference."""
        with torch.inference_mode():
            features, context = self.encode_alike(mixture[None])
            return self.decode(self.network(features, observe), context)[0]

    def separate_with_cost(self, mixture: Tensor) -> tuple[Tensor, Cost]:
        """`separate`, and what the stack cost."""
        meter = CostMeter()
        return self.separate(mixture, meter), meter.cost

    def encode_alike(self, mixture: Tensor) -> tuple[Tensor, tuple[Tensor, int]]:
        """`encode` in float64, then rounded: a sample's features are the same in a block of any length.

        Sums in float32 depend in the last digit on the block around them, and one that does can tip a spike.
        """
        if mixture.device.type == "mps":  # knows no float64
            return self.encode(mixture)
        filters = self.encoder.filterbank.filters().double()
        encoded = F.relu(
            F.conv1d(self._padded(mixture)[:, None].double(), filters, stride=self.stride)
        )
        return self.norm(encoded).float(), (encoded.float(), mixture.shape[-1])

    def _padded(self, mixture: Tensor) -> Tensor:
        """Pad [B, T] so that every sample lies under two frames and the last frame is whole."""
        tail = -mixture.shape[-1] % self.stride
        return F.pad(mixture, (self.stride, self.stride + tail))


def mask_network(config: SeparatorConfig) -> SpikingNetwork:
    """Bottleneck 1x1 convolution, dilated convolutions, and the mask readout, [B, N, K] -> [B, S * N, K]."""
    n, c, k = config.n_filters, config.n_channels, config.conv_kernel_size
    layers = {"bottleneck": SpikingLayer(nn.Conv1d(n, c, 1, bias=False), nn.BatchNorm1d(c))}
    for i, d in enumerate(config.dilations):
        synapse = nn.Conv1d(c, c, k, padding=d * (k // 2), dilation=d, bias=False)
        norm = nn.BatchNorm1d(c)
        if config.identity == "folded":
            nn.init.constant_(norm.weight, RESIDUAL_GAIN)
        paths = {"identity": config.identity == "sum", "residual": config.identity == "folded"}
        layers[f"dilated{i + 1}"] = SpikingLayer(synapse, norm, **paths)
    return SpikingNetwork(layers, Readout(nn.Conv1d(c, config.n_speakers * n, 1)))


def save_separator(
    model: Separator,
    path: str | Path,
    report: list[dict] | None = None,
    card: str | None = None,
    half: bool = False,
) -> None:
    """Write the model and, if given, the report of its conversion and its card, as a folder or one `.safetensors` file,
    by half in 16 bits; see `spikesep.training.model_folder`."""
    save_model(model, path, KIND, asdict(model.config), report=report, card=card, half=half)


def load_separator(path: str | Path) -> Separator:
    """Read what `save_separator` wrote, in inference mode. Nothing in it is executed.

    Raises:
        SpikeSepError: there is none, or not a whole, unchanged separator.
    """
    return load_model(path, KIND, lambda settings: Separator(SeparatorConfig(**settings)))
