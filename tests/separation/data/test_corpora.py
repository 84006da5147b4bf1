import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.paths import SHARED

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import AUDIO_SUFFIXES, write_wav
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora import debian, espeak, folder, list_utterances
from spikesep.separation.data.corpora.screening import (
    Recording,
    ScreenedRecording,
    rejection_reason,
    screen_recordings,
)
from spikesep.separation.data.corpora.splits import assign_splits
from spikesep.separation.data.corpora.table import Utterance, read_table, speaker_id, write_table

LIBRISPEECH = SHARED / "corpora" / "LibriSpeech"
RATE = 8000
TIME = np.arange(2 * RATE) / RATE
NOISE = np.random.default_rng(0).standard_normal(2 * RATE)
ON_OFF = (TIME * 4 % 1 < 0.5).astype(float)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Sentences of four synthetic voices, in memory: (samples, rate)."""
    synthesizer = espeak.Synthesizer()
    voices = [
        voice
        for voice in espeak.VOICES
        if voice.name in ("robotann", "robotfinn", "robotines", "robotleo")
    ]
    return [
        (synthesizer.speak(text, voice), synthesizer.sample_rate)
        for voice in voices
        for text in espeak.sentences(voice.language, 3, random.Random(0))
    ]


def hum(*frequencies):
    return sum(np.sin(2 * np.pi * hz * TIME) for hz in frequencies)


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (0 * TIME, "silence"),
        (1e-3 * NOISE / 5, "silence"),
        (NOISE, "steady"),
        (hum(440), "steady"),
        (hum(50, 100, 150), "steady"),
        (hum(350, 440), "steady"),
        (hum(1400) * ON_OFF, "tone"),
        (hum(480, 620) * ON_OFF, "tone"),
        (hum(300) * (TIME < 0.7) + hum(900) * (TIME > 1.0), "tone"),
        (NOISE * ON_OFF, "noise"),
    ],
)
def test_tones_noise_and_silence_are_rejected(signal, reason):
    gain = 1.0 if reason == "silence" else 0.3 / np.abs(signal).max()
    assert rejection_reason((gain * signal).astype(np.float32), RATE) == reason


@pytest.mark.parametrize("gain", [1.0, 0.02])
@pytest.mark.parametrize("hiss", [0.0, 0.003])
def test_speech_is_accepted_loud_or_soft_clean_or_noisy(spoken, gain, hiss):
    for samples, rate in spoken:
        noise = hiss * np.random.default_rng(1).standard_normal(len(samples)).astype(np.float32)
        assert rejection_reason(gain * (samples + noise), rate) is None


def test_short_and_unreadable_files_and_copies_are_rejected(tmp_path, spoken):
    (one, rate), (other, _) = spoken[:2]
    dither = np.random.default_rng(0).uniform(-1, 1, len(one)).astype(np.float32) / 20000
    write_wav(tmp_path / "a.wav", one, rate)
    write_wav(tmp_path / "b-louder.wav", np.clip(1.4 * one, -1, 1), rate)
    write_wav(tmp_path / "c-dither.wav", np.clip(one + dither, -1, 1), rate)
    write_wav(tmp_path / "d-later.wav", np.concatenate([np.zeros(400, np.float32), one]), rate)
    write_wav(tmp_path / "e.wav", other, rate)
    write_wav(tmp_path / "f-short.wav", one[:rate], rate)
    (tmp_path / "g-text.wav").write_text("no audio")
    (tmp_path / "h-link.wav").symlink_to(tmp_path / "e.wav")
    found = [Recording(path, path.stem, "ann", "f") for path in tmp_path.iterdir()]
    kept, left_out = screen_recordings(found, 1.5, n_jobs=1)
    assert [item.utt_id for item in kept] == ["ann-a", "ann-e"]
    assert left_out == {"copy": 3, "short": 1, "unreadable": 1}
    assert kept[0].duration == len(one) / rate
    others = [
        Recording(path, path.stem, path.stem, "f")
        for path in (tmp_path / "a.wav", tmp_path / "c-dither.wav")
    ]
    assert len(screen_recordings(others, 1.5, n_jobs=1)[0]) == 2  # two speakers: not ours to judge


def test_names_that_reduce_to_one_id_are_numbered(tmp_path, spoken):
    found = []
    for (samples, rate), name in zip(spoken, ("é a", "e/a", "_a_", "é.a"), strict=False):
        path = tmp_path / f"{len(found)}.wav"
        write_wav(path, samples, rate)
        found.append(Recording(path, name, "ann", "f"))
    kept, _ = screen_recordings(found, 0.5, n_jobs=1)
    assert [item.utt_id for item in kept] == ["ann-a", "ann-e_a", "ann-a-2", "ann-a-3"]


def surveyed(voices, per_voice=10, unseen=None):
    return [
        ScreenedRecording(
            Recording(Path(f"/{v}/{n}"), str(n), v, sex, unseen and v in unseen),
            f"{v}-{n}",
            2.0 + n,
        )
        for v, sex in voices.items()
        for n in range(per_voice)
    ]


MANY = {f"{sex}{n}": sex for sex in "fm" for n in range(6)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_voice", [1, 2, 3, 10])
def test_splits_are_disjoint_and_unseen_voices_are_in_tt_only(seed, per_voice):
    table, notices = assign_splits(surveyed(MANY, per_voice), CorpusConfig(name="folder"), seed)
    assert len({row.utt_id for row in table}) == len(table) == 12 * per_voice
    voices = {
        split: {row.speaker for row in table if row.split == split} for split in ("tr", "cv", "tt")
    }
    assert not voices["tt"] & (voices["tr"] | voices["cv"])
    for sex in "fm":
        assert sum(MANY[speaker] == sex for speaker in voices["tt"]) >= 2
    if per_voice == 1:
        assert not voices["tr"] & voices["cv"]
        assert len(voices["cv"]) >= 2
        assert "one utterance only" in notices[0]
    else:
        assert voices["tr"] == voices["cv"]
        assert notices == []


def test_closed_share_applies_to_each_voice():
    table, _ = assign_splits(surveyed(MANY, 20), CorpusConfig(name="folder", closed_share=0.25), 0)
    for speaker in {row.speaker for row in table if row.split != "tt"}:
        assert sum(row.split == "cv" for row in table if row.speaker == speaker) == 5


def test_splits_depend_on_the_seed_and_not_on_the_order_of_files():
    config, found = CorpusConfig(name="folder"), surveyed(MANY)
    table = sorted(assign_splits(found, config, 1)[0], key=lambda row: row.utt_id)
    assert table == sorted(assign_splits(found[::-1], config, 1)[0], key=lambda row: row.utt_id)
    assert table != sorted(assign_splits(found, config, 2)[0], key=lambda row: row.utt_id)


def test_unseen_voices_can_be_set_by_corpus_or_settings():
    table, _ = assign_splits(
        surveyed(MANY, unseen={"f0", "f1", "m0", "m1"}), CorpusConfig(name="folder"), 0
    )
    assert {row.speaker for row in table if row.split == "tt"} == {"f0", "f1", "m0", "m1"}
    config = CorpusConfig(
        name="folder", unseen_speakers=["f-2", "f3", "m2", "m3"], seen_speakers=["f4", "m4"]
    )
    table, _ = assign_splits(surveyed(MANY, unseen={"f0"}), config, 0)
    assert {row.speaker for row in table if row.split == "tt"} == {"f2", "f3", "m2", "m3"}
    assert {row.speaker for row in table if row.split != "tt"} == {"f4", "m4"}


def test_voices_of_unknown_sex_are_held_out():
    table, _ = assign_splits(
        surveyed({f"s{n}": "u" for n in range(5)}), CorpusConfig(name="folder"), 0
    )
    assert len({row.speaker for row in table if row.split == "tt"}) == 2


def test_duration_limit_keeps_the_longest_files():
    table, _ = assign_splits(
        surveyed(MANY), CorpusConfig(name="folder", max_seconds_per_speaker=30.0), 0
    )
    for speaker in MANY:
        durations = sorted(row.duration for row in table if row.speaker == speaker)
        assert sum(durations) <= 30
        assert max(durations) == 11.0


@pytest.mark.parametrize(
    ("voices", "settings", "said"),
    [
        (MANY, {"unseen_speakers": ["f1", "f2"]}, "two male voices"),
        (MANY, {"unseen_speakers": ["f1", "m2"]}, "two female and two male voices"),
        (MANY, {"unseen_speakers": ["zoe"]}, "no usable speech of zoe"),
        (MANY, {"unseen_speakers": ["f1"], "seen_speakers": ["f1"]}, "remove it from one of them"),
        (MANY, {"closed_share": 0.0}, "closed_share"),
        ({"a": "f", "b": "f", "c": "f", "d": "m"}, {}, "two male voices"),
        ({"a": "f", "b": "f", "c": "m", "d": "m"}, {}, "0 voices are left to train"),
        ({"a": "u", "b": "u", "c": "u"}, {}, "1 voices are left to train"),
    ],
)
def test_invalid_choices_of_voices_are_one_line_errors(voices, settings, said):
    with pytest.raises(SpikeSepError, match=said):
        assign_splits(surveyed(voices), CorpusConfig(name="folder", **settings), 0)


ROW = Utterance("ann-1", Path("/x y/é.wav"), "ann", "f", "tr", 2.5)


def test_table_round_trips_sorted(tmp_path):
    rows = [Utterance("bob-2", Path("b.wav"), "bob", "m", "tt", 1.234567), ROW]
    write_table(tmp_path / "t.tsv", rows)
    assert read_table(tmp_path / "t.tsv") == rows[::-1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("utt_id\t", "id\t", ":1: the header"),
        ("\tann\t", "\tann \t", ":2: speaker 'ann '"),
        ("ann-1", "bob-1", ":2: utterance id 'bob-1'"),
        ("ann-1", "ann-1 2", ":2: utterance id"),
        ("\tf\t", "\tx\t", ":2: sex 'x'"),
        ("\ttr\t", "\ttrain\t", ":2: split 'train'"),
        ("2.500000", "-1", ":2: duration '-1'"),
        ("2.500000", "nan", ":2: duration 'nan'"),
        ("2.500000", "long", ":2: duration 'long'"),
        ("\t2.500000", "", ":2: 5 fields where 6"),
        ("/x y/é.wav", "", ":2: the path is empty"),
    ],
)
def test_invalid_rows_are_reported_with_their_line(tmp_path, old, new, said):
    write_table(tmp_path / "t.tsv", [ROW])
    text = (tmp_path / "t.tsv").read_text()
    assert old in text
    (tmp_path / "t.tsv").write_text(text.replace(old, new, 1))
    with pytest.raises(SpikeSepError, match=f"t.tsv{said}"):
        read_table(tmp_path / "t.tsv")


def test_repeated_ids_and_missing_or_empty_tables_are_errors(tmp_path):
    write_table(tmp_path / "t.tsv", [ROW, ROW])
    with pytest.raises(SpikeSepError, match=r"t.tsv:3: .*occurs twice"):
        read_table(tmp_path / "t.tsv")
    write_table(tmp_path / "t.tsv", [])
    with pytest.raises(SpikeSepError, match="lists no utterance"):
        read_table(tmp_path / "t.tsv")
    with pytest.raises(SpikeSepError, match="spikesep-prepare corpus"):
        read_table(tmp_path / "absent.tsv")


@pytest.mark.parametrize(
    "path", ["/x/a\u2028b.wav", "/x/a\x85b.wav", "/x/a\x0cb.wav", "/x/a\rb.wav", "/x/ a\x1db .wav"]
)
def test_table_can_hold_unusual_characters(tmp_path, path):
    write_table(tmp_path / "t.tsv", [replace(ROW, path=Path(path))])
    assert read_table(tmp_path / "t.tsv") == [replace(ROW, path=Path(path))]


def test_table_written_by_windows_programs_is_read(tmp_path):
    write_table(tmp_path / "t.tsv", [ROW])
    text = (tmp_path / "t.tsv").read_text().replace("\n", "\r\n")
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_table(tmp_path / "t.tsv") == [ROW]


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\udcffb"], ids=["tab", "newline", "not UTF-8"])
def test_recordings_whose_path_no_list_can_hold_are_rejected(tmp_path, folder_corpus, name):
    path = folder_corpus / "spk_0" / "deep" / f"{name}.flac"
    shutil.copy(path.with_name("0.flac"), path)
    with pytest.raises(
        SpikeSepError, match=r"spk_0/deep/a.*: a list cannot hold this path .*; rename it"
    ):
        list_utterances(CorpusConfig(name="folder", root=str(folder_corpus)), tmp_path, 0, 1)
    with pytest.raises(SpikeSepError, match="rename it"):
        write_table(tmp_path / "t.tsv", [replace(ROW, path=path)])
    assert not (tmp_path / "t.tsv").exists()


@pytest.mark.parametrize(
    ("name", "cleaned"), [("tuxpaint-bg", "tuxpaintbg"), ("es_co", "esco"), ("é", ""), ("19", "19")]
)
def test_speaker_ids_consist_of_letters_and_digits(name, cleaned):
    assert speaker_id(name) == cleaned


@pytest.fixture
def folder_corpus(tmp_path, spoken):
    """Eight speakers with two files each; sexes of seven of them."""
    root = tmp_path / "corpus"
    for number in range(8):
        for n, (samples, rate) in enumerate(spoken[:2]):
            path = root / f"spk_{number}" / "deep" / f"{n}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, rate)
    (root / "spk_0" / "notes.txt").write_text("not audio")
    (root / "speakers.tsv").write_text(
        "\ufeff" + "".join(f"spk_{n}\t{'FM'[n % 2]}\n" for n in range(7))
    )
    return root


def test_each_folder_is_a_speaker(tmp_path, folder_corpus):
    config = CorpusConfig(name="folder", root=str(folder_corpus), min_seconds=0.5)
    table, notices = list_utterances(config, tmp_path, 0, 1)
    assert len(table) == 16
    assert {row.speaker: row.sex for row in table} == {f"spk{n}": "fmfmfmfu"[n] for n in range(8)}
    assert notices == []
    assert all(row.path.is_file() for row in table)
    assert "spk0-deep_1" in {row.utt_id for row in table}


def test_every_readable_format_is_listed(tmp_path):
    names = {f"take{k}{suffix.upper()}" for k, suffix in enumerate(AUDIO_SUFFIXES)}
    for name in {*names, "notes.txt", "take.raw"}:
        touch = tmp_path / "anna" / name
        touch.parent.mkdir(exist_ok=True)
        touch.touch()
    found = folder.recordings(CorpusConfig(name="folder", root=str(tmp_path)), tmp_path, 0, 1)
    assert {recording.path.name for recording in found} == names
    assert {".wav", ".m4a", ".amr", ".3gp", ".sph", ".wma"} <= set(AUDIO_SUFFIXES)


def test_invalid_folders_are_one_line_errors(tmp_path, folder_corpus):
    def listing(**settings):
        return list_utterances(CorpusConfig(name="folder", **settings), tmp_path, 0, 1)

    with pytest.raises(SpikeSepError, match=r"--corpus.root: nothing"):
        listing()
    with pytest.raises(SpikeSepError, match=r"absent is not a folder"):
        listing(root=str(tmp_path / "absent"))
    (folder_corpus / "speakers.tsv").write_bytes(b"spk_\xe9\tf\n")
    with pytest.raises(SpikeSepError, match=r"speakers.tsv: cannot be read .*UTF-8"):
        listing(root=str(folder_corpus))
    (folder_corpus / "speakers.tsv").write_text("spk_0\tf\nspk_1 m\n")
    with pytest.raises(SpikeSepError, match=r"speakers.tsv:2: "):
        listing(root=str(folder_corpus))
    (folder_corpus / "speakers.tsv").unlink()
    (folder_corpus / "spk-0").mkdir()
    with pytest.raises(SpikeSepError, match="rename the folder"):
        listing(root=str(folder_corpus))
    (tmp_path / "void").mkdir()
    with pytest.raises(SpikeSepError, match="no recording found"):
        listing(root=str(tmp_path / "void"))


def librispeech(root, spoken, subsets):
    """A tree in LibriSpeech's layout; `subsets` is like {"train-clean-100": "FFMM"}."""
    lines, number = ["; a comment with | in it"], 100
    for subset, sexes in subsets.items():
        for sex in sexes:
            number += 1
            lines.append(f"{number:<4} | {sex} | {subset} | 25.1 | A | Name")
            for n, (samples, rate) in enumerate(spoken[:2]):
                path = root / subset / str(number) / "7" / f"{number}-7-{n:04d}.flac"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, samples, rate)
    (root / "SPEAKERS.TXT").write_text("\n".join(lines) + "\n")
    return CorpusConfig(name="librispeech", root=str(root), min_seconds=0.5)


def test_voices_of_test_subsets_are_unseen(tmp_path, spoken):
    config = librispeech(tmp_path, spoken, {"train-clean-100": "FFMM", "test-clean": "FFMM"})
    table, _ = list_utterances(config, tmp_path, 0, 1)
    assert {row.speaker for row in table if row.split == "tt"} == {"105", "106", "107", "108"}
    assert {row.speaker: row.sex for row in table}["103"] == "m"
    assert "101-101_7_0000" in {row.utt_id for row in table}


def test_voices_are_held_out_without_test_subsets(tmp_path, spoken):
    config = librispeech(tmp_path, spoken, {"train-clean-100": "FFFFMMMM"})
    table, _ = list_utterances(config, tmp_path, 0, 1)
    assert sorted({row.speaker: row.sex for row in table if row.split == "tt"}.values()) == [
        "f",
        "f",
        "m",
        "m",
    ]
    (tmp_path / "SPEAKERS.TXT").write_text("101 F train\n")
    with pytest.raises(SpikeSepError, match=r"SPEAKERS.TXT:1: "):
        list_utterances(config, tmp_path, 0, 1)
    (tmp_path / "SPEAKERS.TXT").unlink()
    with pytest.raises(SpikeSepError, match=r"SPEAKERS.TXT: missing"):
        list_utterances(config, tmp_path, 0, 1)


def test_combined_corpora_keep_or_draw_their_own_unseen_voices(tmp_path, spoken):
    config = librispeech(tmp_path / "a", spoken, {"train-clean-100": "FFMM", "test-clean": "FFMM"})
    for number, name in enumerate(["ann", "bea", "cid", "dov", "eve", "fay"]):
        for n, (samples, rate) in enumerate(spoken[:2]):
            path = tmp_path / "b" / name / f"{number}{n}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, rate)
    table, _ = list_utterances(replace(config, also=[f"folder:{tmp_path / 'b'}"]), tmp_path, 0, 1)
    unseen = {row.speaker for row in table if row.split == "tt"}
    assert {"105", "106", "107", "108"} < unseen
    assert len(unseen - {"105", "106", "107", "108"}) == 2
    assert {row.speaker for row in table if row.split == "tr"} > {"101", "102", "103", "104"}
    with pytest.raises(SpikeSepError, match=r"--corpus.also nowhere: nowhere is none of debian"):
        list_utterances(replace(config, also=["nowhere"]), tmp_path, 0, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpikeSepError, match="empty"):
        list_utterances(replace(config, also=[f"folder:{tmp_path / 'empty'}"]), tmp_path, 0, 1)


def test_adding_a_corpus_keeps_the_unseen_voices_of_the_first():
    def surveyed(corpus, n):
        return [
            ScreenedRecording(
                Recording(
                    Path(f"{corpus}/{k}.wav"), "a", f"{corpus}s{k}", "fm"[k % 2], corpus=corpus
                ),
                f"{corpus}s{k}-{u}",
                2.0,
            )
            for k in range(n)
            for u in range(2)
        ]

    def unseen(corpora):
        table, _ = assign_splits(corpora, CorpusConfig(), seed=0)
        return {row.speaker for row in table if row.split == "tt"}

    alone, both = unseen(surveyed(0, 60)), unseen(surveyed(0, 60) + surveyed(1, 40))
    assert alone < both
    assert len(alone) == 6
    assert {speaker[0] for speaker in both - alone} == {"1"}


@pytest.mark.skipif(
    not LIBRISPEECH.is_dir(), reason="no ../shared/corpora/LibriSpeech beside the checkout"
)
def test_a_tenth_of_the_voices_of_the_librispeech_slice_is_held_out(tmp_path):
    config = CorpusConfig(name="librispeech", root=str(LIBRISPEECH), min_seconds=1.5)
    table, _ = list_utterances(config, tmp_path, 0, 1)
    training, closed, held_out = (
        {row.speaker for row in table if row.split == split} for split in ("tr", "cv", "tt")
    )
    assert len(training | closed | held_out) == 251
    assert not held_out & (training | closed)
    assert closed <= training
    assert len(held_out) == 26


def test_synthetic_voices_differ_and_pass_screening(tmp_path, monkeypatch):
    monkeypatch.setattr(espeak, "SENTENCES_PER_VOICE", 4)
    config = CorpusConfig(name="espeak", min_seconds=1.0)
    table, notices = list_utterances(config, tmp_path, 0, 1)
    sexes = {row.speaker: row.sex for row in table}
    for split in ("tr", "cv", "tt"):
        speakers = {row.speaker for row in table if row.split == split}
        assert all(sum(sexes[speaker] == sex for speaker in speakers) >= 2 for sex in "fm")
    assert len(table) == 4 * len(espeak.VOICES)  # none left out: all sound like speech, none alike
    assert any("synthetic" in notice for notice in notices)
    first = min(row.path for row in table)
    stamp = first.stat().st_mtime_ns
    shutil.rmtree(first.parent.parent / "robotleo")
    again, _ = list_utterances(config, tmp_path, 0, 1)
    assert again == table
    assert first.stat().st_mtime_ns == stamp


def fake_package(folder, files):
    """A .deb made on the spot, where dpkg-deb is there to make it."""
    tree = folder / "tree"
    for name, (samples, rate) in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)
    control = tree / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: voices\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    subprocess.run(
        ["dpkg-deb", "-b", tree, folder / "voices_1_all.deb"], check=True, capture_output=True
    )
    return folder / "voices_1_all.deb"


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb on this machine")
def test_packages_are_fetched_once_and_repaired(tmp_path, monkeypatch, spoken):
    sounds = "usr/share/asterisk/sounds/xx"
    files = {
        f"{sounds}/hello.wav": spoken[0],
        f"{sounds}/beep.wav": spoken[1],
        f"{sounds}/silence/1.wav": spoken[2],
    }
    deb = fake_package(tmp_path, files)
    voice = debian.Voice(
        "xena", "f", ("voices",), ("usr/share/asterisk/sounds/xx/**/*.wav",), "seen"
    )
    monkeypatch.setattr(debian, "VOICES", (voice,))
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    fetched = []

    def download(packages, home):
        fetched.append(packages)
        shutil.copy(deb, home)

    monkeypatch.setattr(debian, "_download", download)

    def listed():
        found = debian.recordings(CorpusConfig(), tmp_path / "downloads", 0, 1)
        return [
            (recording.name, recording.speaker, recording.path.is_file()) for recording in found
        ]

    assert listed() == listed() == [("xx/hello", "xena", True)]
    assert fetched == [["voices"]]
    unpacked = tmp_path / "downloads" / "debian" / "voices"
    (unpacked / sounds / "beep.wav").unlink()
    assert listed() == [("xx/hello", "xena", True)]
    assert fetched == [["voices"]] * 2
    assert (unpacked / sounds / "beep.wav").is_file()
    assert [path.name for path in unpacked.parent.iterdir()] == ["voices"]
    deb.write_bytes(deb.read_bytes()[:3000])
    shutil.rmtree(unpacked)
    with pytest.raises(debian.FetchError, match="could not unpack"):
        listed()
    assert list(unpacked.parent.iterdir()) == []


def test_fallback_corpus_is_used_without_apt(tmp_path, monkeypatch, folder_corpus):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    config = CorpusConfig(
        fallback="folder", root=str(folder_corpus), min_seconds=0.5, seen_speakers=["allison"]
    )
    table, notices = list_utterances(config, tmp_path, 0, 1)
    assert {row.speaker for row in table} == {f"spk{n}" for n in range(8)}
    assert "needs apt-get" in notices[0]
    assert "folder corpus instead" in notices[0]
    with pytest.raises(debian.FetchError, match="needs apt-get"):
        list_utterances(CorpusConfig(fallback=""), tmp_path, 0, 1)
    with pytest.raises(SpikeSepError, match=r"--corpus.fallback: nope"):
        list_utterances(CorpusConfig(fallback="nope"), tmp_path, 0, 1)


def test_failed_download_is_a_one_line_error(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    commands = []

    def fails(command, folder):
        commands.append(command[:2])
        return subprocess.CompletedProcess(
            command, 100, "", "W: a warning\nE: Unable to locate package x\n"
        )

    monkeypatch.setattr(debian, "_run", fails)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(debian.FetchError, match=r"Unable to locate package x.*apt-get update"):
        debian.fetch(["x"], tmp_path)
    assert commands == [["apt-get", "download"], ["apt-get", "update"], ["apt-get", "download"]]
    commands.clear()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(debian.FetchError):
        debian.fetch(["x"], tmp_path)
    assert commands == [["apt-get", "download"]]


def test_default_voices_suffice_and_unknown_ones_are_rejected(tmp_path):
    assert len({voice.name for voice in debian.VOICES}) == len(debian.VOICES)
    for role in ("seen", "unseen"):
        sexes = [voice.sex for voice in debian.VOICES if voice.role == role]
        assert min(sexes.count("f"), sexes.count("m")) >= 2
    assert all(voice.name == speaker_id(voice.name) for voice in debian.VOICES)
    with pytest.raises(SpikeSepError, match=r"--corpus.unseen_speakers: no Debian voice zoe"):
        debian.recordings(CorpusConfig(unseen_speakers=["zoe"]), tmp_path, 0, 1)
    with pytest.raises(SpikeSepError, match="no synthetic voice zoe"):
        espeak.recordings(CorpusConfig(unseen_speakers=["zoe"]), tmp_path, 0, 1)
