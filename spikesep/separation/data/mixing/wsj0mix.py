"""WSJ0-2mix as published (Hershey et al., 2016), and mixtures of more speakers likewise: active speech levels by
ITU-T P.56, weights from a list, both lengths, 8 and 16 kHz. Every sample is that of the original script under MATLAB.
"""

import io
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from spikesep.errors import SpikeSepError
from spikesep.files import keep_content, write_text
from spikesep.separation.audio.files import read_audio_at
from spikesep.separation.audio.levels import active_level
from spikesep.separation.audio.resampling import resample
from spikesep.separation.config import MixingConfig, RecipeConfig
from spikesep.separation.data.corpora.mixture_lists import (
    ListRow,
    describe_list,
    find_lists,
    mixture_name,
    read_list,
    write_mix_list,
)
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.mixing.plan import PlannedMixture, Version, plan_of_rows
from spikesep.workers import Workers

MODES = ("min", "max")
CORPUS_RATE = 16000
LEVEL_RATE = 8000
"""Hz: levels are those of the 8 kHz signals, in the 16 kHz mixtures too."""
PEAK = 0.9
MOST_WEIGHT_DB = 2.5
GENERATED = "generated-lists"


def check(config: MixingConfig, counts: Sequence[int]) -> None:
    """Check the settings of this procedure.

    Raises:
        SpikeSepError: a rate other than 8 and 16 kHz.
    """
    odd = [rate for rate in config.rates_hz if rate not in (LEVEL_RATE, CORPUS_RATE)]
    if odd:
        raise SpikeSepError(f"--mixing.rates: {odd[0]} Hz; the original makes 8k and 16k")


def parts(n_speakers: int, noisy: bool) -> tuple[str, ...]:
    """`mix`, `s1`, `s2`."""
    return ("mix", *(f"s{k + 1}" for k in range(n_speakers)))


def folder(data: Path, n_speakers: int, version: Version, split: str) -> Path:
    """`2speakers/wav8k/min/tr`."""
    return data / f"{n_speakers}speakers" / version.label / split


def plan(
    table: list[Utterance], split: str, n: int, recipe: RecipeConfig, data: Path, workers: Workers
) -> tuple[list[PlannedMixture], list[str]]:
    """The mixtures of a list, in its order: a given one, or one drawn from the seed.

    Returns:
        the plan, and notices for the user.

    Raises:
        SpikeSepError: a list or a row of it that cannot be used, or a rate other than 8 and 16 kHz.
    """
    check(recipe.mixing, [n])
    n_speakers = recipe.mixing.n_speakers
    if recipe.corpus.lists:
        path = find_lists(recipe.corpus.lists, n_speakers)[split][0]
        rows = read_list(path)
        return plan_of_rows(rows, table), [describe_list(path, rows)]
    path = data / GENERATED / f"mix_{n_speakers}_spk_{split}.txt"
    rows = draw_rows(
        [row for row in table if row.split == split], n, n_speakers, f"{split} {recipe.seed}"
    )
    write_mix_list(path, rows)
    write_text(
        path.with_name("NOT_THE_PUBLISHED_LISTS.txt"),
        f"Drawn by spikesep-prepare from seed {recipe.seed}, in the form of the published lists of WSJ0-2mix.\n"
        "Results on them do not compare with published ones.\n",
    )
    rows = read_list(path)  # as it will be read by others: weights of five digits
    return plan_of_rows(rows, table), [
        f"{path}: {len(rows)} mixtures, drawn: NOT the published list"
    ]


def draw_rows(table: Sequence[Utterance], n: int, n_speakers: int, seed: str) -> list[ListRow]:
    """Rows with the statistics of the published lists: speakers, then one utterance of each, uniform among all.

    The first weight is uniform in 0..2.5 dB, the second its negative, that of a third is 0.

    Raises:
        SpikeSepError: fewer speakers than a mixture has.
    """
    chance = random.Random(f"wsj0mix {seed}")
    voices: dict[str, list[Utterance]] = defaultdict(list)
    for row in sorted(table, key=lambda row: row.utt_id):
        voices[row.speaker].append(row)
    if len(voices) < n_speakers:
        raise SpikeSepError(
            f"{len(voices)} speakers are listed for a set, {n_speakers} are needed; add voices"
        )
    rows: dict[str, ListRow] = {}
    while len(rows) < n:
        chosen = [
            chance.choice(voices[speaker]) for speaker in chance.sample(sorted(voices), n_speakers)
        ]
        weight = float(f"{chance.uniform(0, MOST_WEIGHT_DB):.5g}")
        weights = (weight, -weight, *[0.0] * (n_speakers - 2))[:n_speakers]
        recordings = tuple(_as_listed(row.path) for row in chosen)
        name = mixture_name(recordings, weights)
        rows.setdefault(name, ListRow("drawn", name, recordings, weights))
    return list(rows.values())


def load(path: Path, rates: tuple[int, ...]) -> dict:
    """The recording as float64 at each rate (Hz), and as `level` its active level at 8 kHz, dB.

    Raises:
        SpikeSepError: it cannot be read, is not at 16 kHz, or is silent.
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
) -> tuple[dict[str, np.ndarray], tuple]:
    """Samples int16 by part; the amplitude gain of each source, and the scaling that all share."""
    amplitudes = [
        10 ** ((weight - voice["level"]) / 20)
        for weight, voice in zip(planned.gains, voices, strict=True)
    ]
    scaled = fit_lengths(
        [a * voice[version.rate] for a, voice in zip(amplitudes, voices, strict=True)], version.mode
    )
    signals = [sum(scaled), *scaled]
    scaling = PEAK / max(np.abs(signal).max() for signal in signals)
    named = zip(parts(len(scaled), False), signals, strict=True)
    return {part: _int16(scaling * signal) for part, signal in named}, (
        *(scaling * a for a in amplitudes),
        scaling,
    )


def fit_lengths(signals: Sequence[np.ndarray], mode: str) -> list[np.ndarray]:
    """Cut all to the shortest (`min`), or follow them with zeros to the longest (`max`)."""
    lengths = [len(signal) for signal in signals]
    if mode == "min":
        return [signal[: min(lengths)] for signal in signals]
    return [np.pad(signal, (0, max(lengths) - len(signal))) for signal in signals]


def finish(
    data: Path, split: str, plan: Sequence[PlannedMixture], version: Version, gains: Sequence[tuple]
) -> bool:
    """The lists and gains that the original writes: `mix_2_spk_min_tr_mix`, `_1`, `_2`, and `scaling.mat`.

    Returns:
        whether any of them had to be written.
    """
    n = len(plan[0].utterances)
    lines = {"mix": [planned.name for planned in plan]}
    lines |= {
        str(k + 1): [_as_listed(planned.utterances[k].path) for planned in plan] for k in range(n)
    }
    label, values, matrices = f"{version.rate // 1000}k", np.array(gains), io.BytesIO()
    gains_of = {f"scaling_{label}": values[:, :-1], f"scaling16bit_{label}": values[:, -1:]}
    savemat(matrices, gains_of, format="4")  # the format without a date in it
    contents = {
        data / f"mix_{n}_spk_{version.mode}_{split}_{part}": "".join(
            f"{line}\n" for line in listed
        ).encode()
        for part, listed in lines.items()
    }
    contents[folder(data, n, version, split) / "scaling.mat"] = matrices.getvalue()
    return any([keep_content(path, content) for path, content in contents.items()])


def _as_listed(path: Path) -> str:
    """`wsj0/si_tr_s/01t/01to030v.wav`, whatever the file's own suffix."""
    return str(Path("wsj0", *path.parts[-3:]).with_suffix(".wav")).lower()


def _int16(samples: np.ndarray) -> np.ndarray:
    """`int16(round(2^15 x))` of MATLAB, which rounds halves away from zero."""
    steps = samples * 32768
    return np.trunc(steps + np.copysign(0.5, steps)).clip(-32768, 32767).astype(np.int16)
