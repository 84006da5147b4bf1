"""Simulated rooms: a bank of impulse responses, drawn once and kept on disk.

The image method (Allen and Berkley, 1979) of pyroomacoustics gives the beginning of a response, and
decaying noise continues it where the images become too many (Lehmann and Johansson, 2010).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path
from spikesep.separation.mixing_config import RoomsConfig
from spikesep.workers import parallel_map

SIZE_METRES = ((3.0, 8.0), (2.5, 6.0), (2.3, 3.5))
"""Ranges of length, width and height."""
WALL_METRES = 0.4
"""Least distance of voices and microphone from the walls."""
DISTANCE_METRES = (0.3, 3.0)
"""Range of the distance from a voice to the microphone."""
MAX_ABSORPTION = 0.98
MAX_ORDER = 20
"""Highest order of the images, up to which their number and time are small."""
DIRECT = 40
"""Sample of an impulse response just before the direct sound."""
SOUND_METRES_PER_SECOND = 343.0


@dataclass(frozen=True)
class Room:
    """A room with a microphone and voices.

    Attributes:
        size: Length, width and height, m.
        rt60: Reverberation time, s.
        microphone: Position, m.
        voices: Positions, m.
    """

    size: tuple[float, ...]
    rt60: float
    microphone: np.ndarray
    voices: tuple[np.ndarray, ...]


class RoomBank:
    """Impulse responses of rooms; each room has one for each voice.

    Args:
        responses: float32 [rooms, voices, T], with the direct sound just after sample `DIRECT`.
        n_early: Samples after the direct sound that belong to the target.
    """

    def __init__(self, responses: np.ndarray, n_early: int):
        self.responses, self.n_early = responses, n_early

    def reverberate(
        self, voices: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Place voices [S, T] in a random room, at their levels.

        Returns:
            The direct sound of each voice with its early reflections, [S, T], as loud as the voice
            was; and the sum of all later reverberation, [T].
        """
        room = self.responses[rng.integers(len(self.responses))]
        places = rng.permutation(len(room))[: len(voices)]
        n_taps = np.flatnonzero(room[places].any(0))[-1] + 1
        whole = np.array(room[places, :n_taps])
        early = whole.copy()
        early[:, DIRECT + self.n_early :] = 0
        parts = _convolve(voices, np.stack([early, whole - early]))
        gains = _rms(voices) / np.maximum(_rms(parts[0]), np.finfo(np.float32).tiny)
        direct, late = parts * gains[:, None]
        return direct, late.sum(0)


def open_room_bank(
    folder: Path, config: RoomsConfig, *, sample_rate: int, n_voices: int, seed: str, n_jobs: int
) -> RoomBank:
    """Read a bank from `folder`; simulate and write it first if it is not there.

    Args:
        folder: Folder of banks.
        config: Settings of the rooms.
        sample_rate: Sample rate in Hz.
        n_voices: Voices per room.
        seed: Seed of the rooms.
        n_jobs: Processes that simulate; 0 uses all cores.

    Raises:
        SpikeSepError: If rooms must be simulated and pyroomacoustics is not installed.
    """
    settings = asdict(config) | {"rate": sample_rate, "voices": n_voices, "seed": seed}
    settings = {k: v for k, v in settings.items() if k not in ("probability", "early_ms")}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{key}.npy"
    if not path.is_file():
        if not find_spec("pyroomacoustics"):
            raise SpikeSepError(
                "--mixing.dynamic.rooms: pyroomacoustics is not installed; "
                "install the package with its extra: pip install '.[train]'"
            )
        simulate = partial(
            simulate_room, rt60=config.rt60, sample_rate=sample_rate, n_voices=n_voices, seed=seed
        )
        responses = parallel_map(simulate, list(range(config.n_rooms)), n_jobs, "rooms", chunk=2)
        with atomic_path(path) as temporary:
            np.save(temporary, np.stack(responses))
    n_early = round(config.early_ms / 1000 * sample_rate)
    return RoomBank(np.load(path, mmap_mode="r"), n_early)


def simulate_room(
    index: int, *, rt60: Sequence[float], sample_rate: int, n_voices: int, seed: str
) -> np.ndarray:
    """Draw and simulate room number `index`, float32 [n_voices, T]; T is that of the longest."""
    rng = np.random.default_rng([index, *seed.encode()])
    room = draw_room(rng, rt60, n_voices)
    n_samples = DIRECT + int(np.ceil(rt60[1] * sample_rate))
    return _simulate(room, sample_rate, n_samples, rng).astype(np.float32)


def draw_room(rng: np.random.Generator, rt60: Sequence[float], n_voices: int) -> Room:
    """Draw a room that can have its reverberation time, and positions in it."""
    wanted = rng.uniform(rt60[0], rt60[1])
    size = tuple(rng.uniform(*bounds) for bounds in SIZE_METRES)
    while _sabine_absorption(wanted, size) > MAX_ABSORPTION:  # a large room decays longer
        wanted *= 1.01
        size = tuple(
            rng.uniform(low, length) for (low, _), length in zip(SIZE_METRES, size, strict=True)
        )
    microphone = _draw_position(rng, size)
    voices: list[np.ndarray] = []
    while len(voices) < n_voices:
        position = _draw_position(rng, size)
        if DISTANCE_METRES[0] <= np.linalg.norm(position - microphone) <= DISTANCE_METRES[1]:
            voices.append(position)
    return Room(size, wanted, microphone, tuple(voices))


def measure_rt60(response: np.ndarray, sample_rate: int, decay_db: float = 30.0) -> float:
    """Measure a reverberation time by Schroeder's backward integration (ISO 3382).

    Args:
        response: Impulse response [T].
        sample_rate: Sample rate in Hz.
        decay_db: Decay from -5 dB on that is measured, and extrapolated to 60 dB.

    Returns:
        The time in seconds.
    """
    energy = np.cumsum(np.square(response[::-1].astype(np.float64)))[::-1]
    decay = 10 * np.log10(np.maximum(energy / energy[0], 1e-12))
    first, last = np.argmax(decay <= -5), np.argmax(decay <= -5 - decay_db)
    slope = np.polyfit(np.arange(first, last) / sample_rate, decay[first:last], 1)[0]
    return float(-60 / slope)


def _draw_position(rng: np.random.Generator, size: Sequence[float]) -> np.ndarray:
    return np.array([rng.uniform(WALL_METRES, length - WALL_METRES) for length in size])


def _sabine_absorption(rt60: float, size: Sequence[float]) -> float:
    """Return the absorption of the walls for a reverberation time, by Sabine's formula."""
    x, y, z = size
    surface = 2 * (x * y + x * z + y * z)
    return 24 * np.log(10) / SOUND_METRES_PER_SECOND * x * y * z / (surface * rt60)


def _simulate(room: Room, sample_rate: int, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Compute the impulse response [n_voices, n_samples] of each voice.

    A shoebox decays more slowly than Sabine's formula says. The difference is made up as by
    absorption in the air, which weakens each image by its distance.
    """
    responses = _image_responses(room, sample_rate, n_samples)
    x, y, _ = sorted(room.size)
    complete = x * y / np.hypot(x, y) * MAX_ORDER / SOUND_METRES_PER_SECOND
    end = min(n_samples, DIRECT + int(complete * sample_rate))
    seconds = np.maximum(np.arange(n_samples) - DIRECT, 0) / sample_rate
    excess_db = -60 / room.rt60 - _decay_rate(responses[:, :end], sample_rate, room.rt60)
    responses *= 10 ** (excess_db * seconds / 20)
    last = slice(max(DIRECT, end - int(0.03 * sample_rate)), end)
    level = _rms(responses[:, last] * 10 ** (3 * seconds[last] / room.rt60))
    tail = rng.normal(size=responses.shape) * 10 ** (-3 * seconds / room.rt60)
    responses[:, end:] = (level[:, None] * tail)[:, end:]
    responses[:, DIRECT + int(np.ceil(room.rt60 * sample_rate)) :] = 0
    return responses / np.abs(responses).max(1, keepdims=True)


def _image_responses(room: Room, sample_rate: int, n_samples: int) -> np.ndarray:
    """Compute responses of the image method, moved so that the direct sound is at `DIRECT`."""
    import pyroomacoustics  # slow to import

    pyroomacoustics.constants.set("num_threads", 1)  # sums in the same order everywhere
    absorption = _sabine_absorption(room.rt60, room.size)
    model = pyroomacoustics.ShoeBox(
        room.size,
        fs=sample_rate,
        materials=pyroomacoustics.Material(absorption),
        max_order=MAX_ORDER,
    )
    model.add_microphone(room.microphone)
    for voice in room.voices:
        model.add_source(voice)
    model.compute_rir()
    assert model.rir is not None
    responses = np.zeros((len(room.voices), n_samples))
    for row, response, voice in zip(responses, model.rir[0], room.voices, strict=True):
        distance = np.linalg.norm(voice - room.microphone)
        # The library delays all by half the length of its fractional delay filters, DIRECT.
        moved = response[int(distance / SOUND_METRES_PER_SECOND * sample_rate) :][:n_samples]
        row[: len(moved)] = moved
    return responses


def _decay_rate(responses: np.ndarray, sample_rate: int, rt60: float) -> float:
    """Return the slope in dB per second of the mean energy of responses [S, T] in frames."""
    length = round(0.01 * sample_rate)
    stop = min(responses.shape[1], DIRECT + int(0.8 * rt60 * sample_rate))
    frames = (stop - DIRECT) // length
    energy = np.square(responses[:, DIRECT : DIRECT + frames * length])
    level = 10 * np.log10(energy.reshape(len(responses), frames, length).sum(2) + 1e-20).mean(0)
    first = min(1, frames - 2)  # the direct sound stands out
    return float(np.polyfit(np.arange(first, frames) * length / sample_rate, level[first:], 1)[0])


def _convolve(voices: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Convolve voices [S, T] with responses [parts, S, n]; return [parts, S, T], float32."""
    n = voices.shape[1]
    size = next_fast_len(n + responses.shape[2] - 1, real=True)
    product = np.asarray(rfft(voices.astype(np.float32), size)) * np.asarray(rfft(responses, size))
    return np.asarray(irfft(product, size))[..., :n]


def _rms(signals: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(signals).mean(-1))
