from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_audio, write_wav
from spikesep.separation.audio.levels import active_level
from spikesep.separation.config import MixingConfig
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.mixing.balanced import (
    load_recording,
    mix,
    mix_at_snr,
    plan_mixtures,
    signal_names,
    with_polarity,
)
from spikesep.separation.data.mixing.plan import Version, hash_plan, planned_files
from spikesep.separation.data.mixing.render import Target, render_mixtures
from spikesep.separation.data.mixture_files import find_residuals
from spikesep.workers import Workers

CONFIG = MixingConfig(max_seconds=1.0)


def snr_of(planned):
    return planned.gains[0] - planned.gains[1]


def syllables(seconds, rate, seed):
    """Noise in bursts and pauses with levels like speech."""
    chance = np.random.default_rng(seed)
    count = int(seconds * rate)
    level = np.repeat(
        chance.choice([0.0, 0.3, 0.6, 1.0], size=count // (rate // 8) + 1), rate // 8
    )[:count]
    level[: rate // 8] = 1.0  # never all silent
    return (chance.uniform(0.02, 0.4) * level * chance.standard_normal(count) / 4).astype(
        np.float32
    )


def table_of(voices, folder=None, per_voice=5, rate=8000):
    """Make a table of voices ({"ann": "f"}), and audio files if a folder is given."""
    rows = []
    for order, (speaker, sex) in enumerate(voices.items()):
        for number in range(per_voice):
            seconds = 1.5 + 0.7 * ((order + number) % 4)
            row = Utterance(
                f"{speaker}-{number}",
                f"{folder}/{speaker}-{number}.wav",
                speaker,
                sex,
                "tr",
                seconds,
            )
            if folder:
                write_wav(row.path, syllables(seconds, rate, 100 * order + number), rate)
            rows.append(row)
    return rows


@given(st.floats(-20, 20), st.floats(0.001, 30), st.integers(0, 1000))
def test_voices_are_scaled_to_the_snr_without_clipping(snr_db, gain, seed):
    first, second = syllables(1.0, 8000, seed), gain * syllables(1.0, 8000, seed + 1)
    first, second = mix_at_snr(first, second, snr_db, 8000)
    assert active_level(first, 8000) - active_level(second, 8000) == pytest.approx(snr_db, abs=0.1)
    for signal in (first, second, first + second):
        assert np.abs(signal).max() <= 0.9
        np.testing.assert_array_equal(signal * 32768, np.round(signal * 32768))


def test_high_peak_scales_both_voices_down():
    clicks = np.full(8000, 1e-3, np.float32)
    clicks[::160] = 0.9  # clicks with a peak far above the active level
    other = syllables(1.0, 8000, 0)
    first, second = mix_at_snr(clicks, other, 6.0, 8000)
    assert 0.89 < max(np.abs(s).max() for s in (first, second, first + second)) <= 0.9
    assert active_level(first, 8000) < -22.5  # scaled below the wanted -22 dB
    assert active_level(first, 8000) - active_level(second, 8000) == pytest.approx(6.0, abs=0.1)


def test_plan_balances_speakers_sexes_and_utterances():
    table = table_of({"ann": "f", "bea": "f", "cleo": "f", "dan": "m", "ed": "m"}, per_voice=7)
    plan = plan_mixtures(table, "tr", 200, CONFIG, seed=1)
    speakers = Counter(row.speaker for planned in plan for row in planned.utterances)
    assert set(speakers.values()) <= {79, 80, 81}
    same = sum(len({row.sex for row in planned.utterances}) == 1 for planned in plan)
    assert same == 100
    utterances = Counter(row.utt_id for planned in plan for row in planned.utterances)
    for speaker in speakers:
        counts = [count for utt_id, count in utterances.items() if utt_id.startswith(f"{speaker}-")]
        assert len(counts) == 7
        assert max(counts) - min(counts) <= 1
    pairs = Counter(frozenset(row.speaker for row in planned.utterances) for planned in plan)
    assert len(pairs) == 10
    louder = Counter(planned.utterances[0].speaker for planned in plan)
    assert all(20 < count < 60 for count in louder.values())


def test_plan_stays_in_its_split_and_repeats_pairs_last():
    table = table_of({"ann": "f", "bob": "m"}, per_voice=6)
    table += [
        replace(row, utt_id=f"{row.speaker}-tt{n}", split="tt") for n, row in enumerate(table)
    ]
    plan = plan_mixtures(table, "tr", 36, CONFIG, seed=0)
    assert {row.split for planned in plan for row in planned.utterances} == {"tr"}
    assert all(len({row.speaker for row in planned.utterances}) == 2 for planned in plan)
    met = {frozenset(row.utt_id for row in planned.utterances) for planned in plan}
    assert len(met) >= 30  # of 36


@given(st.integers(0, 50), st.floats(-5, 5), st.floats(0, 10))
def test_cuts_and_snrs_are_in_range(seed, low, width):
    config = replace(CONFIG, snr_db=(low, low + width))
    for planned in plan_mixtures(table_of({"a": "f", "b": "m", "c": "u"}), "tr", 12, config, seed):
        assert planned.samples == 8000
        assert low - 1e-3 <= snr_of(planned) <= low + width + 1e-3
        for row, start in zip(planned.utterances, planned.starts, strict=True):
            assert 0 <= start <= row.duration * 8000 - planned.samples


def test_plan_depends_on_the_seed_and_not_on_the_order_of_the_table():
    table = table_of({"ann": "f", "bea": "f", "dan": "m", "ed": "m"})
    plan = plan_mixtures(table, "tr", 40, CONFIG, seed=3)
    assert plan == plan_mixtures(table[::-1], "tr", 40, CONFIG, seed=3)
    assert plan != plan_mixtures(table, "tr", 40, CONFIG, seed=4)
    starts = [planned.starts for planned in plan]
    assert any(one != other for one, other in pairwise(starts))
    assert [planned.utt_id for planned in plan] == sorted(planned.utt_id for planned in plan)


@pytest.mark.parametrize(
    ("config", "n", "said"),
    [
        (CONFIG, 0, "at least one"),
        (replace(CONFIG, snr_db=(5.0, 0.0)), 4, "snr_db"),
        (replace(CONFIG, max_seconds=0.0), 4, "max_seconds"),
        (replace(CONFIG, max_seconds=float("nan")), 4, "max_seconds"),
        (replace(CONFIG, rates=["0.008k"]), 4, "rates"),
        (replace(CONFIG, rates=["8k", "16k"]), 4, "rates"),
        (replace(CONFIG, n_speakers=3), 4, "n_speakers"),
    ],
)
def test_invalid_settings_are_named(config, n, said):
    with pytest.raises(SpikeSepError, match=said):
        plan_mixtures(table_of({"ann": "f", "bob": "m"}), "tr", n, config, 0)


def test_two_speakers_are_required():
    with pytest.raises(SpikeSepError, match="two are needed"):
        plan_mixtures(table_of({"ann": "f"}), "tr", 4, CONFIG, 0)


def render(tmp_path, name="out", table=None, config=CONFIG, n=12, n_jobs=1):
    table = table or table_of({"ann": "f", "bea": "f", "dan": "m"}, tmp_path / "audio")
    plan = plan_mixtures(table, "tr", n, config, 0)
    target = Target(Version(8000, "cut"), tmp_path / name, tmp_path / f"{name}.tsv")
    with Workers(n_jobs) as workers:
        written, _ = render_mixtures(plan, "balanced", [target], tmp_path, workers, "tr")[
            target.version
        ]
    return (
        plan,
        [planned_files(planned, tmp_path / name, signal_names(2, False)) for planned in plan],
        written,
    )


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.wav")}


def test_files_have_the_planned_snr_and_length_and_sum_exactly(tmp_path):
    plan, files, written = render(tmp_path)
    assert written == len(plan) == 12
    assert find_residuals(files, 8000)[0] == files
    for planned, mixture in zip(plan, files, strict=True):
        mixed, first, second = (read_audio(path) for path in (mixture.mixture, *mixture.sources))
        assert len(mixed) == len(first) == len(second) == planned.samples
        np.testing.assert_array_equal(mixed, first + second)
        measured = active_level(first, 8000) - active_level(second, 8000)
        assert measured == pytest.approx(snr_of(planned), abs=0.1)
        assert measured > -0.1
        assert np.abs(mixed).max() <= 0.9
        assert soundfile.info(mixture.mixture).samplerate == 8000


def test_recordings_are_resampled_and_lose_their_offset(tmp_path):
    table = table_of({"ann": "f", "bob": "m"}, tmp_path / "audio", rate=44100)
    for row in table:
        write_wav(row.path, 0.5 * read_audio(row.path) + 0.2, 44100)
    plan, files, _ = render(tmp_path, table=table, n=6)
    for planned, mixture in zip(plan, files, strict=True):
        sources = [read_audio(path) for path in mixture.sources]
        assert (
            abs(active_level(sources[0], 8000) - active_level(sources[1], 8000) - snr_of(planned))
            < 0.1
        )
        assert all(abs(source.mean()) < 0.01 for source in sources)


def test_second_run_writes_only_missing_and_truncated_files(tmp_path):
    _, files, _ = render(tmp_path)
    before = contents(tmp_path / "out")
    kept = files[5].mixture.stat().st_mtime_ns
    assert render(tmp_path)[2] == 0
    files[0].mixture.unlink()
    files[1].sources[1].write_bytes(files[1].sources[1].read_bytes()[:5000])
    files[2].sources[0].write_bytes(b"")
    write_wav(files[3].mixture, np.zeros(7999, np.float32), 8000)
    write_wav(files[4].mixture, np.zeros(8000, np.float32), 16000)
    assert render(tmp_path)[2] == 5
    assert contents(tmp_path / "out") == before
    assert files[5].mixture.stat().st_mtime_ns == kept
    assert not [path for path in (tmp_path / "out").rglob(".*")]


def test_number_of_processes_does_not_change_the_files(tmp_path):
    render(tmp_path, "one", n=32)
    render(tmp_path, "two", n=32, n_jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_cut_in_a_pause_moves_on(tmp_path):
    speech = syllables(1.0, 8000, 0)
    for number in range(4):  # ten seconds of hiss around one of speech
        hiss = 1e-4 * np.random.default_rng(number).standard_normal(88000).astype(np.float32)
        hiss[40000:48000] += speech
        write_wav(tmp_path / f"ann-{number}.wav", hiss, 8000)
    rows = [
        Utterance(f"ann-{n}", tmp_path / f"ann-{n}.wav", "ann", "f", "tr", 11.0) for n in range(4)
    ]
    table = rows + table_of({"bob": "m"}, tmp_path / "audio")
    plan, files, _ = render(tmp_path, table=table, n=12)
    starts = [planned.starts[files[n].speakers.index("ann")] for n, planned in enumerate(plan)]
    assert any(not 32000 < start < 48000 for start in starts)  # planned into hiss alone
    for mixture in files:
        voice = read_audio(mixture.sources[mixture.speakers.index("ann")])
        power = np.square(voice.reshape(-1, 160)).mean(axis=1)
        assert power.max() > 1000 * power.min()  # hiss alone is even


def test_recording_that_changed_after_listing_is_named(tmp_path):
    table = table_of({"ann": "f", "bob": "m"}, tmp_path / "audio")
    write_wav(table[0].path, syllables(0.8, 8000, 0), 8000)
    with pytest.raises(SpikeSepError, match=r"ann-0.wav: is shorter"):
        render(tmp_path, table=table)
    write_wav(table[0].path, np.zeros(48000, np.float32), 8000)
    with pytest.raises(SpikeSepError, match=r"ann-0.wav: is silent"):
        render(tmp_path, table=table)


def test_polarity_sets_the_signs_of_the_voices(tmp_path):
    pulses = np.zeros(12000, np.float32)
    pulses[::80] = 0.5
    rows = []
    for k, sign in enumerate((1, -1)):
        rows.append(Utterance(f"v{k}-a", tmp_path / f"v{k}.wav", f"v{k}", "f", "tr", 1.5))
        write_wav(rows[-1].path, sign * pulses * np.repeat(np.linspace(0.3, 1, 12), 1000), 8000)
    plan = plan_mixtures(rows, "tr", 2, CONFIG, 0)
    plain_hash = hash_plan(plan)
    with Workers(1) as workers:
        assert with_polarity(plan, "as_recorded", workers, "tr") == plan
        for polarity, product in (("aligned", 1), ("opposite", -1)):
            signed = with_polarity(plan, polarity, workers, "tr")
            assert hash_plan(signed) != plain_hash
            for planned in signed:
                voices = [load_recording(row.path, (8000,)) for row in planned.utterances]
                parts_of, _ = mix(planned, voices, Version(8000, "cut"))
                skewness = [
                    np.sign((parts_of[name].astype(float) ** 3).sum()) for name in ("s1", "s2")
                ]
                assert np.prod(skewness) == product
                assert skewness[0] == 1
