"""A small spiking network that embeds stretches of a voice so that speakers can be told apart.

    voice [B, T] -> the separator's encoder, autocorrelation -> features [B, F, K]
    features -> spiking network -> potential [B, D, K]
    potential -> mean and standard deviation over active frames -> embedding [B, E] of length 1

Frames are 20 ms apart. The encoder's filters are a copy of the separator's.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.checks import check_whole
from spikesep.separation.model.separator import Separator
from spikesep.separation.tracks.activity import FRAMES_PER_SECOND
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.training.conversion.model import ConvertibleModel
from spikesep.training.records.model_folder import load_model, save_model

KIND = "spikesep-tracks"
SPECTRAL_FLOOR = 0.02
"""Added to the encoder's channels, relative to their mean, before the logarithm."""
PITCH_HZ = (50.0, 400.0)
"""Range of the lags of the autocorrelation."""


@dataclass(frozen=True)
class EmbedderConfig:
    """Architecture of the embedder.

    Attributes:
        sample_rate: sample rate of the voices, Hz; a multiple of 50.
        n_filters: encoder filters.
        kernel_size: encoder window, samples; the stride is half of it and divides a frame.
        n_lags: lags of the autocorrelation.
        n_channels: channels of the spiking layers.
        conv_kernel_size: kernel size of the dilated convolutions.
        dilations: dilations of the convolutions, in order.
        n_potentials: channels of the readout, D.
        n_dimensions: length of an embedding, E.
    """

    sample_rate: int = 8000
    n_filters: int = 256
    kernel_size: int = 20
    n_lags: int = 40
    n_channels: int = 96
    conv_kernel_size: int = 3
    dilations: list[int] = field(default_factory=lambda: [1, 2, 4])
    n_potentials: int = 64
    n_dimensions: int = 64

    def __post_init__(self):
        ranges = dict.fromkeys(("n_filters", "kernel_size", "n_lags", "n_channels"), (1, 4096))
        ranges |= dict.fromkeys(("conv_kernel_size", "n_potentials", "n_dimensions"), (1, 4096))
        check_whole("tracks", self, sample_rate=(1_000, 768_000), **ranges)

    @property
    def stride(self) -> int:
        """Samples between frames of the encoder."""
        return self.kernel_size // 2

    @property
    def hop(self) -> int:
        """Samples between frames of the embedder."""
        return self.sample_rate // FRAMES_PER_SECOND

    @property
    def n_features(self) -> int:
        """Channels of the network's input, F."""
        return self.n_filters + self.n_lags

    @property
    def context(self) -> int:
        """Frames on either side of a frame that its potential can depend on."""
        return 1 + sum(d * (self.conv_kernel_size // 2) for d in self.dilations)


class SpeakerEmbedder(ConvertibleModel):
    """Embeds stretches of voices; a network of integrate-and-fire neurons once converted.

    Args:
        config: sizes.
    """

    filters: Tensor

    def __init__(self, config: EmbedderConfig):
        super().__init__()
        self.config = config
        self.register_buffer("filters", torch.zeros(config.n_filters, 1, config.kernel_size))
        self.network = _network(config)
        self.head = nn.Sequential(
            nn.BatchNorm1d(2 * config.n_potentials),
            nn.Linear(2 * config.n_potentials, config.n_dimensions),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Embed features and weights [B, F + 1, K] as in `encode`: [B, E]."""
        features, weights = self.encode(x)
        return self.decode(self.network(features), weights)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split [B, F + 1, K] into features and the weights of frames, its last channel."""
        return x[:, :-1], x[:, -1]

    def decode(self, potential: Tensor, context: Tensor) -> Tensor:
        """Pool potentials [B, D, K] with the weights [B, K] of their frames; embed them: [B, E]."""
        return self.embed(*pooled_sums(potential, context))

    def embed(self, weight: Tensor, total: Tensor, squares: Tensor) -> Tensor:
        """Embed sums over frames: of weights [B], and of weighted potentials and squares [B, D]."""
        mean = total / weight[:, None]
        deviation = (squares / weight[:, None] - mean.square()).clamp(min=1e-6).sqrt()
        return F.normalize(self.head(torch.cat([mean, deviation], 1)), dim=1)

    def front(self) -> list[nn.Module]:
        """List the modules that `encode` runs: none."""
        return []

    def features(self, voices: Tensor) -> Tensor:
        """Return features [B, F, K] of voices [B, K * hop], without padding at the edges."""
        return torch.cat([self._spectrum(voices), self._autocorrelation(voices)], 1)

    def _spectrum(self, voices: Tensor) -> Tensor:
        """Return log energies of the encoder's channels, relative to their mean, [B, N, K]."""
        stride = self.config.stride
        encoded = F.relu(F.conv1d(F.pad(voices, (stride, 0))[:, None], self.filters, stride=stride))
        pooled = F.avg_pool1d(encoded, self.config.hop // stride)
        relative = pooled / (pooled.mean(1, keepdim=True) + 1e-7)
        return torch.log(relative + SPECTRAL_FLOOR)

    def _autocorrelation(self, voices: Tensor) -> Tensor:
        """Return the normalized autocorrelation over two frames at lags of the pitch range."""
        hop, rate = self.config.hop, self.config.sample_rate
        frames = F.pad(voices, (hop // 2, hop - hop // 2)).unfold(-1, 2 * hop, hop)
        frames = (frames - frames.mean(-1, keepdim=True)) * torch.hann_window(2 * hop)
        spectrum = torch.fft.rfft(frames, 4 * hop)
        correlation = torch.fft.irfft(spectrum.abs().square())
        low, high = rate / PITCH_HZ[1], rate / PITCH_HZ[0]
        lags = (
            torch.logspace(
                torch.log10(torch.tensor(low)), torch.log10(torch.tensor(high)), self.config.n_lags
            )
            .round()
            .long()
        )
        return (correlation[..., lags] / (correlation[..., :1] + 1e-7)).transpose(1, 2)


def pooled_sums(potential: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum weights [B, K], weighted potentials [B, D, K] and their squares over frames."""
    weighted = potential * weights[:, None]
    return weights.sum(1).clamp(min=1e-6), weighted.sum(2), (weighted * potential).sum(2)


def _network(config: EmbedderConfig) -> SpikingNetwork:
    """Build the network, [B, F, K] -> [B, D, K]."""
    c, k = config.n_channels, config.conv_kernel_size
    layers = {
        "bottleneck": SpikingLayer(
            nn.Conv1d(config.n_features, c, 1, bias=False), nn.BatchNorm1d(c)
        )
    }
    for i, d in enumerate(config.dilations):
        synapse = nn.Conv1d(c, c, k, padding=d * (k // 2), dilation=d, bias=False)
        layers[f"dilated{i + 1}"] = SpikingLayer(synapse, nn.BatchNorm1d(c))
    return SpikingNetwork(layers, Readout(nn.Conv1d(c, config.n_potentials, 1)))


def new_embedder(separator: Separator) -> SpeakerEmbedder:
    """Build an untrained embedder on the encoder of a separator."""
    config = separator.config
    embedder = SpeakerEmbedder(
        EmbedderConfig(config.sample_rate, config.n_filters, config.kernel_size)
    )
    embedder.filters.copy_(separator.encoder.filterbank.filters().detach())
    return embedder


def save_embedder(
    model: SpeakerEmbedder,
    path: str | Path,
    report: list[dict] | None = None,
    card: str | None = None,
) -> None:
    """Write an embedder as a model folder."""
    save_model(model, path, KIND, asdict(model.config), report=report, card=card)


def load_embedder(path: str | Path) -> SpeakerEmbedder:
    """Load what `save_embedder` wrote, in inference mode. No code from the model is executed.

    Raises:
        SpikeSepError: it does not exist, is incomplete, or its checksum does not match.
    """
    return load_model(path, KIND, lambda settings: SpeakerEmbedder(EmbedderConfig(**settings)))
