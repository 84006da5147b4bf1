"""Model and separation settings of one run, shared by all worker processes."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.downmix import Channels
from spikesep.separation.inference.band.high_bands import Band
from spikesep.separation.inference.in_memory import Model, Tracks, load_model
from spikesep.separation.inference.output_level import Level
from spikesep.separation.inference.voices import Voices, check_voices
from spikesep.spiking.conversion.time_steps import set_time_steps


@dataclass(frozen=True)
class InferenceSettings:
    """Settings from which any process can load the model and separate a recording.

    Attributes:
        model: see `load_model`; None for the shipped model.
        network: `snn` or `ann`; None for the spiking one, if present.
        steps: time steps of the spiking network; None for those it was trained with.
        engine: engine of the spiking layers.
        device: torch device.
        level: output level; see `set_level`.
        segment: length of the network's blocks in seconds; None, for a live stream alone, leaves it
            to the model.
        channels: channels to separate.
        tracks: `auto` lets every voice follow its speaker, if the model has an embedder; `off`
            keeps the order of the network's outputs.
        energy_table: energies per operation, a key of `ENERGY_TABLES`.
        band: `full` gives the voices the recording's band, `network` only the network's.
        voices: `all` outputs of the network, as many as are heard (`auto`), or a number of them.
    """

    model: str | None = None
    network: Literal["snn", "ann"] | None = None
    steps: int | None = None
    engine: str = "auto"
    device: str = "cpu"
    level: Level = "match-mix"
    segment: float | None = 10.0
    channels: Channels = "mix"
    tracks: Tracks = "auto"
    energy_table: str = "45nm"
    band: Band = "full"
    voices: Voices = "all"

    @property
    def n_planned(self) -> int:
        """Largest number of voices to write of each signal."""
        if isinstance(self.voices, int):
            return self.voices
        return cached_model(self).n_speakers


@lru_cache(maxsize=1)
def cached_model(settings: InferenceSettings) -> Model:
    """Load the model of the settings, once per process.

    Raises:
        SpikeSepError: the model cannot be loaded, cannot run with this number of time steps, or
            has fewer outputs than are asked for.
    """
    model = load_model(settings.model, settings.network, settings.device, settings.band)
    model.separator.network.use_engine(settings.engine)
    if settings.steps is not None:
        try:
            set_time_steps(model.separator.network, settings.steps)
        except ValueError as error:
            raise SpikeSepError(f"--steps {settings.steps}: {error}; leave it out") from error
    try:
        check_voices(settings.voices, model.n_speakers)
    except ValueError as error:
        raise SpikeSepError(f"--{error}") from error
    return model
