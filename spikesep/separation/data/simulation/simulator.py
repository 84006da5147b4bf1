"""Simulated recordings of voices: room, noise and damage, by chance or as a test condition.

Each part has a random generator of its own, so that the same voices, room and noise occur in all
conditions of a test set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spikesep.separation.config import DynamicMixingConfig
from spikesep.separation.data.simulation.damage import damage, limit_band
from spikesep.separation.data.simulation.noise import NoiseLibrary
from spikesep.separation.data.simulation.noise_files import list_noise
from spikesep.separation.data.simulation.rooms import RoomBank, open_room_bank
from spikesep.separation.mixing_config import DamageConfig, NoiseConfig, RoomsConfig

CHANCES, ROOM, NOISE, DAMAGE = range(4)
"""Last number of the seed of each part's random generator."""
MAX_LEAD_SECONDS = 0.3


@dataclass(frozen=True)
class Simulator:
    """Room, noise and damage of mixtures at one sample rate.

    Attributes:
        sample_rate: Sample rate in Hz.
        level_db: Mean active speech level of the voices in dB, to which noise levels refer.
        rooms: Settings of the rooms.
        bank: Rooms; None for none.
        noise: Settings of the noise.
        library: Noises; None for none.
        damage: Settings of the damage.
    """

    sample_rate: int
    level_db: float
    rooms: RoomsConfig
    bank: RoomBank | None
    noise: NoiseConfig
    library: NoiseLibrary | None
    damage: DamageConfig

    @property
    def n_lead(self) -> int:
        """Samples to simulate before a crop, so that reverberation of earlier speech is in it."""
        seconds = min(MAX_LEAD_SECONDS, self.rooms.rt60[1])
        return round(seconds * self.sample_rate) if self.bank else 0

    def apply(
        self, sources: np.ndarray, rest: np.ndarray, seed: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Simulate a recording; which parts occur is random.

        Args:
            sources: Voices at their levels, [S, T].
            rest: What is already added to them, [T].
            seed: Seed of all choices.

        Returns:
            The targets [S, T], which are the voices with their early reflections in the band of the
            recording; and the rest [T], so that the mixture is the sum of both.
        """
        room, noise, band = np.random.default_rng((*seed, CHANCES)).random(3)
        if self.bank and room < self.rooms.probability:
            sources, late = self.bank.reverberate(sources, _generator(seed, ROOM))
            rest = rest + late
        if self.library and noise < self.noise.probability:
            rest = rest + self._draw_noise(len(rest), _generator(seed, NOISE))
        if band < self.damage.band:
            limited = limit_band(np.vstack([sources, rest]), self.sample_rate)
            sources, rest = limited[:-1], limited[-1]
        mixture = sources.sum(0) + rest
        damaged = damage(mixture, self.damage, self.sample_rate, _generator(seed, DAMAGE))
        return sources, rest + (damaged - mixture)

    def _draw_noise(self, n_samples: int, rng: np.random.Generator) -> np.ndarray:
        assert self.library is not None
        level = self.level_db - rng.uniform(*self.noise.snr_db)
        return self.library.draw(rng, n_samples) * 10 ** (level / 20)


def open_simulator(
    data: Path,
    config: DynamicMixingConfig,
    voices: Sequence[Path],
    *,
    n_voices: int,
    sample_rate: int,
    level_db: float,
    split: str,
    seed: int,
    n_jobs: int = 1,
) -> Simulator:
    """Create a simulator, with rooms of its own for each split and seed.

    Args:
        data: Data folder, which keeps the rooms.
        config: Settings.
        voices: Recordings of voices for babble and speech-shaped noise.
        n_voices: Voices per room.
        sample_rate: Sample rate in Hz.
        level_db: See `Simulator`.
        split: `tr`, or `cv` or `tt`, which have the held-out noises.
        seed: Seed of the rooms.
        n_jobs: Processes that simulate rooms.

    Raises:
        SpikeSepError: If noise recordings cannot be found.
    """
    bank = library = None
    if config.rooms.probability:
        bank = open_room_bank(
            data / "local" / "rooms",
            config.rooms,
            sample_rate=sample_rate,
            n_voices=n_voices,
            seed=f"{split} {seed}",
            n_jobs=n_jobs,
        )
    if config.noise.probability:
        recordings = list_noise(config.noise.recordings, held_out=split != "tr")
        library = NoiseLibrary(config.noise.kinds, recordings, voices, sample_rate)
    return Simulator(
        sample_rate, level_db, config.rooms, bank, config.noise, library, config.damage
    )


def at_condition(config: DynamicMixingConfig, condition: str) -> DynamicMixingConfig:
    """Return settings with the parts of a test condition in every mixture, and no others.

    Args:
        config: Settings of the parts.
        condition: `clean`, `noise`, `room`, `both`, `damaged`, which has both and the damage of
            the settings, or `varied`: the settings as they are.
    """
    if condition == "varied":
        return config
    has_room = condition in ("room", "both", "damaged")
    has_noise = condition in ("noise", "both", "damaged")
    return replace(
        config,
        rooms=replace(config.rooms, probability=float(has_room)),
        noise=replace(config.noise, probability=float(has_noise)),
        damage=config.damage if condition == "damaged" else DamageConfig(),
    )


def _generator(seed: Sequence[int], part: int) -> np.random.Generator:
    return np.random.default_rng((*seed, part))
