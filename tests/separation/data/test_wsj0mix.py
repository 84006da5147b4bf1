"""WSJ0-2mix: files of the original from wav and SPHERE, mixture lists, and more speakers."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.paths import SHARED
from helpers.sound.shorten import sphere_bytes
from scipy.io import loadmat

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig, MixingConfig, RecipeConfig
from spikesep.separation.data.corpora import list_utterances
from spikesep.separation.data.corpora.mixture_lists import (
    describe_mixture_list,
    find_mixture_lists,
    read_mixture_list,
    write_wsj0_list,
)
from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, Utterance, write_table
from spikesep.separation.data.kaldi import validate_data_dir
from spikesep.separation.data.mixing.wsj0mix import draw_rows
from spikesep.separation.data.mixture_files import find_residuals
from spikesep.separation.data.preparation import make_mixtures
from spikesep.training.config import LaunchConfig

GOLDEN, LISTS = SHARED / "golden" / "wsj0-2mix", SHARED / "lists"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no {GOLDEN}")


def make(data, root, lists="", n_jobs=1, seed=0, **mixing):
    """Run stages 0 and 1, and return their notices."""
    settings = {"rates": ["8k", "16k"], "modes": ["min", "max"]} | mixing
    recipe = RecipeConfig(
        seed=seed,
        corpus=CorpusConfig(name="wsj0", root=str(root), lists=str(lists), as_published=True),
        mixing=MixingConfig(procedure="wsj0mix", **settings),
        launch=LaunchConfig(n_jobs=n_jobs),
    )
    n_speakers = recipe.mixing.n_speakers
    write_table(
        data / UTTERANCE_TABLE, list_utterances(recipe.corpus, data, seed, n_jobs, n_speakers)[0]
    )
    told = []
    make_mixtures(data, recipe, told.append)
    return told


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.wav"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    data = tmp_path_factory.mktemp("golden")
    make(data, GOLDEN, GOLDEN)
    return data


@needs_golden
def test_wav_files_are_bit_identical_to_the_original(made):
    expected = contents(GOLDEN / "2speakers")
    assert len(expected) == 72
    assert contents(made / "2speakers") == expected
    for split in ("tr", "cv", "tt"):
        mixtures = validate_data_dir(made / split)
        assert find_residuals(mixtures, 8000)[0] == mixtures


@needs_golden
def test_lists_are_bit_identical_to_the_original(made):
    lists = [path for path in GOLDEN.glob("mix_2_spk_m*") if path.is_file()]
    assert len(lists) == 18
    for path in lists:
        assert (made / path.name).read_bytes() == path.read_bytes(), path.name


@needs_golden
def test_gains_equal_the_original(made):
    for path in GOLDEN.rglob("scaling.mat"):
        ours = loadmat(made / path.relative_to(GOLDEN))
        for name, block in re.findall(r"# name: (\w+)\n.*\n.*\n.*\n((?: .*\n)+)", path.read_text()):
            theirs = np.array([[float(v) for v in line.split()] for line in block.splitlines()])
            np.testing.assert_allclose(ours[name], theirs, rtol=1e-10)


@needs_golden
def test_data_directories_of_all_versions_are_valid(made):
    for home in ("", "wav8k/max", "wav16k/min", "wav16k/max"):
        for split in ("tr", "cv", "tt"):
            mixtures = validate_data_dir(made / home / split)
            assert len(mixtures) == 2
            label = home or "wav8k/min"
            assert all(
                f"2speakers/{label}/{split}/mix" in str(mixture.mixture) for mixture in mixtures
            )
    assert validate_data_dir(made / "tt")[0].utt_id == "052_053-052c0105_0.87368_053o020p_-0.87368"


@needs_golden
@pytest.mark.parametrize("coding", ["pcm", "pcm,embedded-shorten-v1.1"])
def test_sphere_files_give_the_same_mixtures_and_wv2_is_ignored(tmp_path, made, coding):
    root = tmp_path / "discs"
    for number, path in enumerate(sorted((GOLDEN / "wsj0").rglob("*.wav"))):
        *_, name, speaker, file = path.parts
        home = root / f"11-{number % 3 + 1}.1" / "WSJ0" / name.upper() / speaker
        home.mkdir(parents=True, exist_ok=True)
        pcm = soundfile.read(path, dtype="int16")[0]
        (home / file.upper()).with_suffix(".WV1").write_bytes(sphere_bytes(pcm, coding))
        (home / file.upper()).with_suffix(".WV2").write_bytes(
            sphere_bytes(pcm[::-1].copy(), coding)
        )
        (home / file).with_suffix(".wv2").write_bytes(b"other microphone")
    doc = root / "11-13.1" / "wsj0" / "doc"
    doc.mkdir(parents=True)
    (doc / "spkrinfo.txt").write_text("; Spkr  Sex\n052   F   x\n053   M   x\n422 F\n423 F\n")
    data = tmp_path / "data"
    make(data, root, GOLDEN)
    assert contents(data / "2speakers") == contents(made / "2speakers")
    assert [mixture.group for mixture in validate_data_dir(data / "tt")] == ["diff", "same"]
    assert {mixture.group for mixture in validate_data_dir(data / "tr")} == {"unknown"}
    for name in ("mix_2_spk_min_tr_1", "mix_2_spk_max_tt_mix"):
        assert (data / name).read_bytes() == (GOLDEN / name).read_bytes()


@needs_golden
def test_second_run_repairs_damage_and_nothing_else(tmp_path, made):
    data = tmp_path / "data"
    told = make(data, GOLDEN, GOLDEN)
    assert sum("2 of them written now" in line for line in told) == 12
    before = contents(data)
    times = {path: path.stat().st_mtime_ns for path in data.rglob("*.wav")}
    damaged = sorted((data / "2speakers" / "wav8k" / "min" / "tr" / "s1").iterdir())[0]
    content = bytearray(damaged.read_bytes())
    content[2000] ^= 1  # the length stays right
    damaged.write_bytes(content)
    lost = sorted((data / "2speakers" / "wav16k" / "max" / "tt" / "mix").iterdir())[1]
    lost.unlink()
    (data / "mix_2_spk_max_cv_1").unlink()
    (data / "cv" / "utt2spk").unlink()
    told = make(data, GOLDEN, GOLDEN)
    assert sum("1 of them written now" in line for line in told) == 2
    assert (
        sum("0 of them written now" in line for line in told) == 2
    )  # a list of the original, a data directory
    assert sum("are up to date" in line for line in told) == 8
    assert contents(data) == before
    assert (data / "mix_2_spk_max_cv_1").exists()
    validate_data_dir(data / "cv")
    rewritten = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert {damaged, lost} <= rewritten
    assert len(rewritten) == 6  # all three files of a mixture


@needs_golden
def test_another_rate_is_added_to_existing_mixtures(tmp_path, made):
    data = tmp_path / "data"
    make(data, GOLDEN, GOLDEN, rates=["8k"], modes=["max"])
    told = make(data, GOLDEN, GOLDEN, rates=["8k", "16k"], modes=["max", "min"])
    assert sum("are up to date" in line for line in told) == 3
    assert contents(data / "2speakers") == contents(made / "2speakers")


@needs_golden
def test_three_speakers_are_mixed_likewise(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    rows = {
        "tr": "wsj0/si_tr_s/02c/02co030m.wav 1.5 "
        "wsj0/si_tr_s/024/024a0106.wav -1.5 "
        "wsj0/si_tr_s/20j/20ja010n.wav 0\n",
        "cv": "wsj0/si_tr_s/204/204a010t.wav 0.5 "
        "wsj0/si_tr_s/02d/02da010d.wav -0.5 "
        "wsj0/si_tr_s/209/209o010o.wav 0\n",
        "tt": "wsj0/si_dt_05/422/422o030w.wav 2 "
        "wsj0/si_dt_05/423/423o0310.wav -2 "
        "wsj0/si_dt_05/052/052c0105.wav 0\n",
    }
    for split, text in rows.items():
        (lists / f"mix_3_spk_{split}.txt").write_text(text)
    data = tmp_path / "data"
    make(data, GOLDEN, lists, n_speakers=3)
    (mixture,) = validate_data_dir(data / "tr")
    assert mixture.speakers == ("02c", "024", "20j")
    assert mixture.mixture.name == "02co030m_1.5_024a0106_-1.5_20ja010n_0.wav"
    assert mixture.mixture.parts[-6:-1] == ("3speakers", "wav8k", "min", "tr", "mix")
    mixed, *sources = (soundfile.read(path)[0] for path in (mixture.mixture, *mixture.sources))
    np.testing.assert_allclose(mixed, sum(sources), atol=2 / 32768)
    assert find_residuals([mixture], 8000)[0] == [mixture]
    assert max(np.abs(signal).max() for signal in (mixed, *sources)) == pytest.approx(
        0.9, abs=1 / 32768
    )
    assert (
        len(mixed)
        == min(soundfile.info(GOLDEN / name).frames for name in rows["tr"].split()[::2]) // 2
    )
    assert (data / "mix_3_spk_min_tr_3").read_text() == "wsj0/si_tr_s/20j/20ja010n.wav\n"


@pytest.mark.skipif(not LISTS.is_dir(), reason=f"no {LISTS}")
def test_published_lists_are_recognized():
    found = find_mixture_lists(LISTS, 2)
    for split, n_rows, n_speakers in (("tr", 20000, 101), ("cv", 5000, 101), ("tt", 3000, 18)):
        rows = read_mixture_list(found[split][0])
        said = describe_mixture_list(found[split][0], rows)
        assert said.endswith(f"{n_rows} mixtures of {n_speakers} speakers: the published list")
        assert "NOT the published list" in describe_mixture_list(found[split][0], rows[1:])
        assert "NOT the published list" in describe_mixture_list(
            found[split][0], [*rows[1:], rows[0]]
        )


def table(n_speakers=20, per_speaker=30):
    names = [
        (f"0{s:02x}", f"0{s:02x}a{n:04d}") for s in range(n_speakers) for n in range(per_speaker)
    ]
    home = Path("/x/wsj0/si_tr_s")
    return [
        Utterance(f"{who}-{utt}", home / who / f"{utt}.wv1", who, "u", "tr", 5.0)
        for who, utt in names
    ]


def test_drawn_lists_have_the_statistics_of_the_published_ones(tmp_path):
    rows = draw_rows(table(), 2000, 2, "tr 0")
    assert len({row.name for row in rows}) == len(rows) == 2000
    weights = np.array([row.gains for row in rows])
    np.testing.assert_array_equal(weights[:, 0], -weights[:, 1])
    assert 0 <= weights[:, 0].min() < 0.01
    assert 2.49 < weights[:, 0].max() <= 2.5
    counts = np.histogram(weights[:, 0], bins=10, range=(0, 2.5))[0]
    assert counts.min() > 140  # of 200
    speakers = Counter(key[:3] for row in rows for key in row.keys)
    assert len(speakers) == 20
    assert all(130 < count < 270 for count in speakers.values())
    assert all(one[:3] != other[:3] for one, other in (row.keys for row in rows))
    assert all(
        name.startswith("wsj0/si_tr_s/") and name.endswith(".wav")
        for row in rows
        for name in row.recordings
    )
    assert draw_rows(table()[::-1], 2000, 2, "tr 0") == rows
    assert draw_rows(table(), 2000, 2, "tr 1") != rows


@needs_golden
def test_drawn_lists_are_marked_as_not_published(tmp_path):
    told = make(
        tmp_path, GOLDEN, rates=["8k"], modes=["min"], n_train=5, n_closed=1, n_open=4, seed=4
    )
    assert sum("NOT the published list" in line for line in told) == 3
    assert "seed 4" in (tmp_path / "generated-lists" / "NOT_THE_PUBLISHED_LISTS.txt").read_text()
    assert len(read_mixture_list(tmp_path / "generated-lists" / "mix_2_spk_tt.txt")) == 4
    assert len(validate_data_dir(tmp_path / "tr")) == 5
    again = make(
        tmp_path, GOLDEN, rates=["8k"], modes=["min"], n_train=5, n_closed=1, n_open=4, seed=4
    )
    assert sum("are up to date" in line for line in again) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no mixture"),
        ("\n  \n", "lists no mixture"),
        ("wsj0/a/b/c.wav 1 wsj0/d/e/f.wav\n", ":1: .*does not alternate"),
        ("wsj0/a/b/c.wav 1 wsj0/d/e/f.wav x\n", ":1: 'x' is not a number"),
        ("wsj0/a/b/c.wav 1 wsj0/d/e/f.wav -1\n" * 2, ":2: .* occurs twice"),
        (
            "wsj0/a/b/c.wav 1 wsj0/d/e/f.wav -1\n"
            "wsj0/a/b/c.wav 1 wsj0/d/e/f.wav -1 wsj0/x/y/z.wav 0\n",
            ":2: 3 recordings",
        ),
    ],
)
def test_invalid_list_is_a_one_line_error(tmp_path, text, said):
    path = tmp_path / "mix_2_spk_tr.txt"
    path.write_text(text)
    with pytest.raises(SpikeSepError, match=said) as caught:
        read_mixture_list(path)
    assert str(path) in str(caught.value)


def test_list_with_unusual_line_ends_and_characters_is_read(tmp_path):
    path = tmp_path / "mix_2_spk_tr.txt"
    path.write_bytes("\ufeffwsj0/a/b/c\u2028\x85.wav 1\twsj0/d/e/f.wav -1 \r\n".encode())
    rows = read_mixture_list(path)
    assert [row.recordings for row in rows] == [("wsj0/a/b/c\u2028\x85.wav", "wsj0/d/e/f.wav")]
    write_wsj0_list(path, rows)
    assert read_mixture_list(path) == rows
    with pytest.raises(
        SpikeSepError, match=r"'wsj0/a/b/c d.wav': a list of WSJ0-2mix cannot hold spaces; rename"
    ):
        write_wsj0_list(path, [replace(rows[0], recordings=("wsj0/a/b/c d.wav", "wsj0/d/e/f.wav"))])


@needs_golden
def test_row_with_a_missing_file_is_named_before_anything_is_written(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for split in ("tr", "cv", "tt"):
        shutil.copy(GOLDEN / f"mix_2_spk_{split}.txt", lists)
    path = lists / "mix_2_spk_cv.txt"
    path.chmod(0o644)
    path.write_text(
        path.read_text() + "wsj0/si_tr_s/02d/02dx0000.wav 1 wsj0/si_tr_s/20c/20cc0102.wav -1\n"
    )
    with pytest.raises(
        SpikeSepError, match=r"mix_2_spk_cv.txt:3: wsj0/si_tr_s/02d/02dx0000.wav is not in"
    ):
        make(tmp_path / "data", GOLDEN, lists)
    assert not (tmp_path / "data").exists()
