"""WSJ0-2mix as published (Hershey et al., 2016), and mixtures of more speakers by the same rule.

Mixtures have active speech levels by ITU-T P.56, weights from a mixture list, both length modes,
and 8 and 16 kHz. Every sample equals that of the original script under MATLAB.
"""

import io
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from spikesep.errors import SpikeSepError
from spikesep.files import write_if_changed, write_text
from spikesep.separation.audio.files import read_audio_at
from spikesep.separation.audio.levels import active_level
from spikesep.separation.audio.resampling import resample
from spikesep.separation.config import MixingConfig, RecipeConfig
from spikesep.separation.data.corpora.mixture_lists import (
    MixtureListRow,
    describe_mixture_list,
    find_mixture_lists,
    mixture_name,
    read_mixture_list,
    write_wsj0_list,
)
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.mixing.plan import PlannedMixture, Version, plan_from_list
from spikesep.workers import Workers

MODES: tuple[str, ...] = ("min", "max")
CORPUS_RATE = 16000
LEVEL_RATE = 8000
"""Sample rate in Hz at which levels are measured, for 16 kHz mixtures too."""
PEAK = 0.9
MAX_WEIGHT_DB = 2.5
GENERATED = "generated-lists"
"""Folder of drawn mixture lists, below the data folder."""
NOTICE = "NOT_THE_PUBLISHED_LISTS.txt"


def check_settings(config: MixingConfig, counts: Sequence[int]) -> None:
    """Check the settings of this procedure.

    Raises:
        SpikeSepError: If a rate is neither 8 nor 16 kHz.
    """
    unsupported = [rate for rate in config.rates_hz if rate not in (LEVEL_RATE, CORPUS_RATE)]
    if unsupported:
        raise SpikeSepError(f"--mixing.rates: {unsupported[0]} Hz; the original makes 8k and 16k")


def signal_names(n_speakers: int, noisy: bool) -> tuple[str, ...]:
    """Return `mix`, `s1`, `s2` and so on."""
    return ("mix", *(f"s{k + 1}" for k in range(n_speakers)))


def output_folder(data: Path, n_speakers: int, version: Version, split: str) -> Path:
    """Return `data/2speakers/wav8k/min/<split>`."""
    return data / f"{n_speakers}speakers" / version.label / split


def plan_set(
    table: list[Utterance], split: str, n: int, recipe: RecipeConfig, data: Path, workers: Workers
) -> tuple[list[PlannedMixture], list[str]]:
    """Plan the mixtures of a given mixture list, or of one drawn from the seed.

    Returns:
        The plan in the order of the list, and notices for the user.

    Raises:
        SpikeSepError: If a list or a row of it is invalid, or a rate is not supported.
    """
    check_settings(recipe.mixing, [n])
    n_speakers = recipe.mixing.n_speakers
    if recipe.corpus.lists:
        path = find_mixture_lists(recipe.corpus.lists, n_speakers)[split][0]
        rows = read_mixture_list(path)
        return plan_from_list(rows, table), [describe_mixture_list(path, rows)]
    path = data / GENERATED / f"mix_{n_speakers}_spk_{split}.txt"
    candidates = [row for row in table if row.split == split]
    write_wsj0_list(path, draw_rows(candidates, n, n_speakers, f"{split} {recipe.seed}"))
    write_text(
        path.with_name(NOTICE),
        f"Drawn by spikesep-prepare from seed {recipe.seed}, "
        "in the form of the published lists of WSJ0-2mix.\n"
        "Results on them do not compare with published ones.\n",
    )
    rows = read_mixture_list(path)  # with weights rounded as in the file
    notice = f"{path}: {len(rows)} mixtures, drawn: NOT the published list"
    return plan_from_list(rows, table), [notice]


def draw_rows(
    table: Sequence[Utterance], n: int, n_speakers: int, seed: str
) -> list[MixtureListRow]:
    """Draw rows with the statistics of the published lists.

    Speakers are uniformly distributed, and so are the utterances of each. The first weight is
    uniform in 0..2.5 dB, the second is its negative, and further ones are 0.

    Raises:
        SpikeSepError: If there are fewer speakers than a mixture has.
    """
    rng = random.Random(f"wsj0mix {seed}")
    voices: dict[str, list[Utterance]] = defaultdict(list)
    for row in sorted(table, key=lambda row: row.utt_id):
        voices[row.speaker].append(row)
    if len(voices) < n_speakers:
        raise SpikeSepError(
            f"{len(voices)} speakers are listed for a set, {n_speakers} are needed; add voices"
        )
    rows: dict[str, MixtureListRow] = {}
    while len(rows) < n:
        chosen = [rng.choice(voices[speaker]) for speaker in rng.sample(sorted(voices), n_speakers)]
        weight = float(f"{rng.uniform(0, MAX_WEIGHT_DB):.5g}")
        weights = (weight, -weight, *[0.0] * (n_speakers - 2))[:n_speakers]
        recordings = tuple(_listed_name(row.path) for row in chosen)
        name = mixture_name(recordings, weights)
        rows.setdefault(name, MixtureListRow("drawn", name, recordings, weights))
    return list(rows.values())


def load_recording(path: Path, rates: tuple[int, ...]) -> dict:
    """Read a recording as float64 at each rate (Hz), and its active level at 8 kHz (dB) as `level`.

    Raises:
        SpikeSepError: If the recording cannot be read, is not at 16 kHz, or is silent.
    """
    samples = read_audio_at(path, CORPUS_RATE).astype(np.float64)
    narrow = resample(samples, CORPUS_RATE, LEVEL_RATE)
    level = active_level(narrow, LEVEL_RATE)
    if not np.isfinite(level):
        raise SpikeSepError(f"{path}: is silent; take its rows out of the lists")
    voice = {LEVEL_RATE: narrow, CORPUS_RATE: samples}
    return {"level": level} | {rate: voice[rate] for rate in rates}


def mix(
    planned: PlannedMixture, voices: Sequence[dict], version: Version
) -> tuple[dict[str, np.ndarray], tuple[float, ...]]:
    """Return int16 samples by signal name; the gain of each source, and their common scale."""
    gains = [
        10 ** ((weight - voice["level"]) / 20)
        for weight, voice in zip(planned.gains, voices, strict=True)
    ]
    scaled = fit_lengths(
        [gain * voice[version.rate] for gain, voice in zip(gains, voices, strict=True)],
        version.mode,
    )
    signals = [sum(scaled), *scaled]
    scale = PEAK / max(np.abs(signal).max() for signal in signals)
    samples = {
        name: _to_int16(scale * signal)
        for name, signal in zip(signal_names(len(scaled), False), signals, strict=True)
    }
    return samples, (*(scale * gain for gain in gains), scale)


def fit_lengths(signals: Sequence[np.ndarray], mode: str) -> list[np.ndarray]:
    """Cut all signals to the shortest (`min`), or pad them with zeros to the longest (`max`)."""
    lengths = [len(signal) for signal in signals]
    if mode == "min":
        return [signal[: min(lengths)] for signal in signals]
    return [np.pad(signal, (0, max(lengths) - len(signal))) for signal in signals]


def write_lists(
    data: Path,
    split: str,
    plan: Sequence[PlannedMixture],
    version: Version,
    gains: Sequence[tuple[float, ...]],
) -> bool:
    """Write the lists and gains of the original script.

    They are `mix_2_spk_min_tr_mix`, `mix_2_spk_min_tr_1`, `_2` and so on, and `scaling.mat`.

    Returns:
        Whether any file was changed.
    """
    n = len(plan[0].utterances)
    lines = {"mix": [planned.name for planned in plan]}
    lines |= {
        str(k + 1): [_listed_name(planned.utterances[k].path) for planned in plan] for k in range(n)
    }
    contents = {
        data / f"mix_{n}_spk_{version.mode}_{split}_{name}": "".join(
            f"{line}\n" for line in listed
        ).encode()
        for name, listed in lines.items()
    }
    label, values, matrices = f"{version.rate // 1000}k", np.array(gains), io.BytesIO()
    gains_of = {f"scaling_{label}": values[:, :-1], f"scaling16bit_{label}": values[:, -1:]}
    savemat(matrices, gains_of, format="4")  # the format that contains no date
    contents[output_folder(data, n, version, split) / "scaling.mat"] = matrices.getvalue()
    return any([write_if_changed(path, content) for path, content in contents.items()])


def _listed_name(path: Path) -> str:
    """Return `wsj0/si_tr_s/01t/01to030v.wav`, regardless of the file's suffix."""
    return str(Path("wsj0", *path.parts[-3:]).with_suffix(".wav")).lower()


def _to_int16(samples: np.ndarray) -> np.ndarray:
    """Compute `int16(round(2^15 x))` as MATLAB does, which rounds halves away from zero."""
    steps = samples * 32768
    return np.trunc(steps + np.copysign(0.5, steps)).clip(-32768, 32767).astype(np.int16)
