"""Sounds of an example: a mixture and its separated voices, whole or in part, and their files."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import torch

from spikesep.separation.audio.files import read_audio
from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.inference.output_level import set_level
from spikesep.separation.inference.voices import activity_of_outputs
from spikesep.separation.model.separator import Separator
from spikesep.separation.pages.lanes import Lane, make_lanes
from spikesep.separation.pages.rasters import data_url, is_drawn
from spikesep.separation.scoring import metrics
from spikesep.separation.scoring.voices import TRACKS, SeparatedVoices, separate
from spikesep.separation.tracks.embedder import SpeakerEmbedder
from spikesep.separation.tracks.rttm import Turn, turns_of_activity
from spikesep.spiking.cost import Cost, CostMeter

PEAK = 0.9
"""Largest magnitude in an example, relative to full scale; all its sounds share one gain."""
LONGEST, EXCERPT = 20.0, 6.0
"""Longest mixture in seconds that is shown as a whole, and length of the part of others."""
CONVERSATION = (120.0, 90.0, 60.0, 45.0, 30.0, 20.0, 15.0, 10.0, EXCERPT)
"""Lengths in seconds of the part of a conversation; the first whose files are small enough."""
FEWEST = 0.8
"""Least size of a part relative to that of the whole, for the same length."""
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
MP3_COMPRESSION = 0.4
"""From 0, the best quality, to 1; about 40 kbit/s for speech at 16 kHz."""


@dataclass(frozen=True)
class Conversation:
    """What is known about a conversation.

    Attributes:
        turns: turns of its sources.
        embedder: tells its speakers apart.
        max_bytes: size of all its sounds together, as data URLs.
    """

    turns: tuple[Turn, ...]
    embedder: SpeakerEmbedder | None
    max_bytes: float


@dataclass(frozen=True)
class Sounds:
    """What an example plays, and what the networks did.

    Attributes:
        mixture: the mixture, [T].
        waves: voices [S, T] in the order of the sources: the sources, under `source`, and the
            estimates of each network.
        sample_rate: sample rate in Hz.
        whole_seconds: length of the mixture of which this is a part, or the same.
        costs: operations of each network in the part.
        counts: spike counts of the layers of the spiking network, [channels, frames]; those that
            no raster shows may be empty.
        lanes: turns of each voice, if it is a conversation.
        follows: whether the voices follow their speakers.
    """

    mixture: np.ndarray
    waves: dict[str, np.ndarray]
    sample_rate: int
    whole_seconds: float
    costs: dict[str, Cost]
    counts: dict[str, np.ndarray]
    lanes: tuple[Lane, ...] = ()
    follows: bool = False

    def encoder(self) -> Callable[[np.ndarray], str]:
        """Return what encodes a sound [T] as a data URL, with one gain for all."""
        return _encoder([self.mixture, *self.waves.values()], self.sample_rate, bool(self.lanes))


def read_sounds(
    mixture: Mixture, models: dict[str, Separator], conversation: Conversation | None
) -> Sounds:
    """Read a mixture and separate it with each model."""
    sample_rate = models["snn"].sample_rate
    mixed = read_audio(mixture.mixture, sample_rate)
    sources = np.stack([read_audio(path, sample_rate) for path in mixture.sources])
    if conversation is not None:
        return _conversation(mixed, sources, models, conversation)
    part = excerpt(sources, sample_rate)
    mixed, whole_seconds = mixed[part], len(mixed) / sample_rate
    sources = sources[:, part]
    waves, costs, counts = {"source": sources}, {}, {}
    for name, model in models.items():
        estimates, costs[name], counts[name] = separate_with_counts(model, mixed)
        waves[name] = order_voices(estimates, sources, mixed)
    return Sounds(mixed, waves, sample_rate, whole_seconds, costs, counts["snn"])


def _conversation(
    mixed: np.ndarray,
    sources: np.ndarray,
    models: dict[str, Separator],
    conversation: Conversation,
) -> Sounds:
    """Separate a conversation as a whole, and return the longest part that is small enough.

    Voices are tracks that follow their speakers if there is an embedder, and the outputs of the
    network otherwise.
    """
    rate, waves, found = models["snn"].sample_rate, {"source": sources}, []
    follows = conversation.embedder is not None
    for name, model in models.items():
        voices = separate(model, conversation.embedder, mixed, in_turns=True)[0]
        chosen = voices[TRACKS if follows else ""]
        waves[name] = order_voices(chosen.estimates, sources, mixed)
        if name == "snn":
            found = find_turns(chosen, sources, mixed, rate)
    part = _small_part(mixed, waves, rate, conversation.max_bytes)
    costs, counts = {}, {}
    for name, model in models.items():
        costs[name], counts[name] = _count_in_pieces(model, mixed[part])
    return Sounds(
        mixed[part],
        {name: wave[:, part] for name, wave in waves.items()},
        rate,
        len(mixed) / rate,
        costs,
        counts["snn"],
        tuple(
            make_lanes(conversation.turns, found, len(sources), part.start / rate, part.stop / rate)
        ),
        follows,
    )


def find_turns(
    voices: SeparatedVoices, sources: np.ndarray, mixed: np.ndarray, sample_rate: int
) -> list[Turn]:
    """Return the turns of separated voices, numbered as the sources [S, T], from 1.

    They are those of the tracks or, if the voices follow no speakers, the times in which each
    voice is active.
    """
    turns = voices.turns
    if turns is None:
        turns = turns_of_activity(activity_of_outputs(voices.estimates, mixed, sample_rate))
    order = metrics.best_permutation(voices.estimates, sources)
    number = {estimate + 1: source for source, estimate in enumerate(order, start=1)}
    return [Turn(turn.start, turn.stop, number[turn.speaker]) for turn in turns]


def _small_part(
    mixed: np.ndarray, waves: dict[str, np.ndarray], sample_rate: int, max_bytes: float
) -> slice:
    """Return the longest part whose sounds are small enough; at least the shortest."""
    whole = len(mixed) / sample_rate
    part, per_second = slice(0, len(mixed)), 0.0
    for seconds in (whole, *(length for length in CONVERSATION if length < whole)):
        if FEWEST * per_second * seconds > max_bytes and seconds > CONVERSATION[-1]:
            continue  # without encoding it
        part = excerpt(waves["source"], sample_rate, seconds, seconds)
        sounds = [mixed[part], *(voice for wave in waves.values() for voice in wave[:, part])]
        encode = _encoder(sounds, sample_rate, lossy=True)
        n_bytes = sum(len(encode(sound)) for sound in sounds)
        per_second = n_bytes / seconds
        if n_bytes <= max_bytes:
            break
    return part


def _count_in_pieces(model: Separator, mixed: np.ndarray) -> tuple[Cost, dict[str, np.ndarray]]:
    """Return cost and spike counts of a network on a sound of any length, see `Sounds`.

    It runs on pieces of `LONGEST` seconds, which bounds memory; spikes near their ends may differ
    from those of one pass.
    """
    cost, pieces = Cost(), []
    n = round(LONGEST * model.sample_rate)
    for start in range(0, len(mixed), n):
        _, added, counts = separate_with_counts(model, mixed[start : start + n])
        cost += added
        pieces.append(
            {
                name: count if is_drawn(k, len(counts)) else count[:, :0]
                for k, (name, count) in enumerate(counts.items())
            }
        )
    return cost, {name: np.concatenate([p[name] for p in pieces], axis=1) for name in pieces[0]}


def _encoder(
    sounds: Sequence[np.ndarray], sample_rate: int, lossy: bool
) -> Callable[[np.ndarray], str]:
    """Return what encodes sounds as data URLs: FLAC, or MP3, if it exists at the sample rate."""
    gain = PEAK / max(1e-6, *(float(np.abs(sound).max()) for sound in sounds))

    def encode(samples: np.ndarray) -> str:
        if lossy and sample_rate in MP3_RATES:
            return data_url("audio/mpeg", mp3(gain * samples, sample_rate))
        return data_url("audio/flac", flac(gain * samples, sample_rate))

    return encode


def separate_with_counts(
    model: Separator, mixture: np.ndarray
) -> tuple[np.ndarray, Cost, dict[str, np.ndarray]]:
    """Separate a mixture [T].

    Returns:
        Estimates [n_speakers, T], their cost, and the spike counts of each spiking layer
        [channels, frames].
    """
    meter, counts = CostMeter(), {}

    def observe(name, module, signal, out):
        meter(name, module, signal, out)
        if out.is_spiking:
            counts[name] = out.count[0].numpy()

    estimates = model.separate(torch.from_numpy(mixture), observe).numpy()
    return estimates, meter.cost, counts


def excerpt(
    sources: np.ndarray, sample_rate: int, longest: float = LONGEST, seconds: float = EXCERPT
) -> slice:
    """Return the part of a mixture to show, in which the quietest of its voices is loudest.

    Args:
        sources: [S, T]; silent ones do not count.
        sample_rate: sample rate in Hz.
        longest: longest mixture in seconds that is shown as a whole.
        seconds: length of the part of others.
    """
    n = round(seconds * sample_rate)
    if sources.shape[1] <= longest * sample_rate:
        return slice(0, sources.shape[1])
    heard = sources[sources.any(1)]
    energy = np.cumsum(np.pad(np.square(heard, dtype=np.float64), ((0, 0), (1, 0))), axis=1)
    starts = np.arange(0, sources.shape[1] - n + 1, sample_rate)
    quietest = (energy[:, starts + n] - energy[:, starts]).min(0, initial=np.inf)
    start = int(starts[np.argmax(quietest)])
    return slice(start, start + n)


def order_voices(estimates: np.ndarray, sources: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Return estimates [S, T] in the order of the sources, each at the RMS of its source.

    An estimate whose source is silent is at the level of the mixture, as users get it.
    """
    order = list(metrics.best_permutation(estimates, sources))
    as_written = set_level(estimates, mixed, "match-mix")[0]
    return np.stack(
        [
            match_rms(estimates[k], source) if source.any() else as_written[k]
            for k, source in zip(order, sources, strict=True)
        ]
    )


def match_rms(estimate: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Scale an estimate to the RMS of its source, as SI-SDR leaves its level undetermined."""
    level = math.sqrt(float(np.mean(np.square(estimate, dtype=np.float64))))
    target = math.sqrt(float(np.mean(np.square(source, dtype=np.float64))))
    return estimate * np.float32(target / level) if level > 0 else estimate


def flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """Encode float samples [T] as a 16-bit FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def mp3(samples: np.ndarray, sample_rate: int) -> bytes:
    """Encode float samples [T] as an MP3 file, which decoders return without delay or padding."""
    buffer = io.BytesIO()
    soundfile.write(
        buffer,
        samples,
        sample_rate,
        format="MP3",
        bitrate_mode="VARIABLE",
        compression_level=MP3_COMPRESSION,
    )
    return buffer.getvalue()
