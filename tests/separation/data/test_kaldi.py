from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikesep.errors import SpikeSepError
from spikesep.separation.data.kaldi import Mixture, read_data_dir, validate_data_dir, write_data_dir


def mixture(folder, speakers, number, sexes=None):
    utt_id = f"{'_'.join(speakers)}-{number:05d}"
    paths = [
        Path(folder) / part / f"{utt_id}.wav"
        for part in ("mix", *(f"s{n + 1}" for n in range(len(speakers))))
    ]
    return Mixture(
        utt_id, paths[0], tuple(paths[1:]), tuple(speakers), tuple(sexes or "f" * len(speakers))
    )


def touch_audio(mixtures):
    for each in mixtures:
        for path in (each.mixture, *each.sources):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.fixture
def data_dir(tmp_path):
    mixtures = [
        mixture(tmp_path / "wav", ("ann", "bob"), 0, "fm"),
        mixture(tmp_path / "wav", ("ann", "bob"), 3, "fm"),
        mixture(tmp_path / "wav", ("ann", "cleo"), 1, "ff"),
    ]
    touch_audio(mixtures)
    write_data_dir(tmp_path / "tr", mixtures)
    return tmp_path / "tr", mixtures


def test_data_dir_round_trips(data_dir):
    directory, mixtures = data_dir
    assert validate_data_dir(directory) == mixtures
    assert [each.group for each in mixtures] == ["diff", "diff", "same"]
    assert (
        directory / "spk2utt"
    ).read_text() == "ann_bob ann_bob-00000 ann_bob-00003\nann_cleo ann_cleo-00001\n"
    assert (directory / "utt2sexes").read_text().splitlines()[0] == "ann_bob-00000 f m"


def test_lists_of_a_third_speaker_come_and_go(tmp_path):
    three = [mixture(tmp_path, ("a", "b", "c"), n, "fmu") for n in range(3)]
    write_data_dir(tmp_path / "tr", three)
    assert read_data_dir(tmp_path / "tr") == three
    assert three[0].group == "unknown"
    two = [mixture(tmp_path, ("a", "b"), 0)]
    write_data_dir(tmp_path / "tr", two)
    assert read_data_dir(tmp_path / "tr") == two


names = st.text("aZ09b", min_size=1, max_size=3)


@given(st.lists(st.tuples(names, names, st.integers(0, 99)), min_size=1, max_size=12, unique=True))
def test_lists_are_sorted_by_id_and_by_speaker(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("order")
    mixtures = [mixture(folder, (a, b), n) for a, b, n in rows]
    write_data_dir(folder / "tr", mixtures)
    lines = (folder / "tr" / "utt2spk").read_bytes().splitlines()
    assert lines == sorted(lines, key=lambda line: line.split()[0])
    speakers = [line.split()[1] for line in lines]
    assert speakers == sorted(speakers)
    assert set(read_data_dir(folder / "tr")) == set(mixtures)


def test_writing_is_atomic(data_dir, monkeypatch):
    directory, mixtures = data_dir
    before = {path.name: path.read_text() for path in directory.iterdir()}
    write_text, calls = Path.write_text, []

    def fails_at_the_third(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 3:
            raise OSError("disk full")
        return write_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", fails_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        write_data_dir(directory, mixtures[:1])
    assert {path.name: path.read_text() for path in directory.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"speakers": ("ann",)}, "speakers"),
        ({"speakers": ("ann", "b_b")}, "letters and digits"),
        ({"utt_id": "xyz-0"}, "does not begin"),
        ({"utt_id": "ann_bob-1 2"}, "does not begin"),
        ({"utt_id": "ann_bob-00003"}, "share an id"),
    ],
)
def test_invalid_mixtures_are_not_written(data_dir, tmp_path, change, said):
    _, mixtures = data_dir
    with pytest.raises(SpikeSepError, match=said):
        write_data_dir(tmp_path / "new", [replace(mixtures[0], **change), *mixtures[1:]])
    assert not (tmp_path / "new").exists()


def test_paths_can_hold_unusual_characters(data_dir, tmp_path):
    _, mixtures = data_dir
    odd = replace(mixtures[0], mixture=tmp_path / "a\u2028b\x85c\x0cd\re f|g\u00a0.wav")
    write_data_dir(tmp_path / "odd", [odd])
    assert read_data_dir(tmp_path / "odd") == [odd]


@pytest.mark.parametrize("name", ["a\nb.wav", "a.wav ", "a.wav|", "a.wav\r", "a\udcff.wav"])
def test_paths_that_no_list_can_hold_are_rejected(data_dir, tmp_path, name):
    _, mixtures = data_dir
    with pytest.raises(SpikeSepError, match=r"a list cannot hold this path.*rename it"):
        write_data_dir(
            tmp_path / "new", [replace(mixtures[0], sources=(Path(name), Path("b.wav")))]
        )
    assert not (tmp_path / "new").exists()


def rewrite(path, edit):
    path.write_bytes(edit(path.read_text()).encode())


def test_foreign_lists_are_read_as_kaldi_reads_them(data_dir, tmp_path, monkeypatch):
    """The lists have a byte-order mark, tabs, Windows line ends and other ids."""
    directory, mixtures = data_dir
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in directory.iterdir():
        rewrite(path, lambda text: text.replace("bob-", "bob_x\u00a0"))
    for name in ("wav.scp", "utt2spk"):
        rewrite(
            directory / name,
            lambda text: "\ufeff" + text.replace(" ", " \t", 1).replace("\n", " \r\n"),
        )
    rewrite(directory / "spk2.scp", lambda text: text.replace(str(tmp_path), "~"))
    (directory / "spk1 (copy).scp").write_text("not a list")
    (directory / "spk2utt").unlink()
    (directory / "utt2sexes").unlink()
    found = read_data_dir(directory)
    for one, other in zip(found, mixtures, strict=True):
        assert one.utt_id == other.utt_id.replace("bob-", "bob_x\u00a0")
        for path, before in zip(
            (one.mixture, *one.sources), (other.mixture, *other.sources), strict=True
        ):
            assert str(path) == str(before).replace("bob-", "bob_x\u00a0")
    assert {each.group for each in found} == {"unknown"}


def test_writing_keeps_files_that_are_not_lists(data_dir):
    directory, mixtures = data_dir
    (directory / "spk1 (copy).scp").write_text("mine")
    (directory / "spk3.scp").write_text("of an earlier set")
    write_data_dir(directory, mixtures)
    assert (directory / "spk1 (copy).scp").read_text() == "mine"
    assert not (directory / "spk3.scp").exists()


def swap(lines):
    return [lines[1], lines[0], *lines[2:]]


def edited(old, new):
    return lambda lines: [line.replace(old, new) for line in lines]


PIPE = "wav.scp:1: .*commands are not run; write its output to a wav file and list that"
BROKEN = {
    "unsorted": ("wav.scp", swap, "wav.scp:2: .*sort"),
    "duplicate": ("wav.scp", lambda lines: [lines[0], *lines], "wav.scp:2: .*twice"),
    "no value": ("spk1.scp", edited(" /", "/"), "spk1.scp:1: .*a value"),
    "empty line": ("utt2spk", lambda lines: [*lines[:1], "", *lines[1:]], "utt2spk:2: .*a value"),
    "empty list": ("wav.scp", lambda lines: [], "wav.scp: lists nothing"),
    "id missing at the end": (
        "spk2.scp",
        lambda lines: lines[:2],
        "spk2.scp:3: no line for ann_cleo-00001",
    ),
    "id missing inside": ("spk2.scp", lambda lines: lines[::2], "spk2.scp:2: .*same ids"),
    "id too many": (
        "utt2sexes",
        lambda lines: [*lines, "zoe_ann-1 f f"],
        "utt2sexes:4: .*same ids",
    ),
    "one speaker": ("utt2spk", edited(" ann_bob", " ann"), "utt2spk:1: .*2 names"),
    "not prefixed": ("utt2spk", edited(" ann_cleo", " ann_zoe"), "utt2spk:3: .*does not begin"),
    "one sex": ("utt2sexes", edited(" f m", " f"), "utt2sexes:1: 2 of f m u"),
    "odd sex": ("utt2sexes", edited(" f m", " f x"), "utt2sexes:1: 2 of f m u"),
    "spk2utt disagrees": (
        "spk2utt",
        edited("ann_cleo a", "cleo_ann a"),
        "spk2utt:2: ann_cleo-00001 is ann_cleo's",
    ),
    "spk2utt lacks one": (
        "spk2utt",
        edited(" ann_bob-00003", ""),
        "spk2utt:3: no line holds ann_bob-00003",
    ),
    "spk2utt unsorted": (
        "spk2utt",
        edited("ann_bob-00000 ann_bob-00003", "ann_bob-00003 ann_bob-00000"),
        "spk2utt:1: ",
    ),
    "spk2utt has a stranger": (
        "spk2utt",
        edited("ann_cleo-00001", "ann_cleo-00009"),
        "spk2utt:2: .*no speaker",
    ),
    "command": ("wav.scp", lambda lines: [f"{line} |" for line in lines], PIPE),
    "command in a source's list": (
        "spk2.scp",
        lambda lines: [*lines[:2], f"{lines[2]} |"],
        "spk2.scp:3: .*write its output",
    ),
    "no such home": (
        "spk1.scp",
        edited(" /", " ~nobody-at-all/"),
        "spk1.scp:1: no home folder ~nobody-at-all",
    ),
    "audio missing": (
        "spk1.scp",
        edited("s1/ann_cleo", "s1/gone"),
        "spk1.scp:3: no audio file .*gone",
    ),
    "list missing": ("utt2spk", None, "utt2spk: missing"),
    "source list missing": ("spk1.scp", None, "spk1.scp: missing"),
    "one source list": ("spk2.scp", None, "spk2.scp: missing"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_errors_give_file_line_and_remedy(data_dir, fault):
    directory, _ = data_dir
    name, edit, said = BROKEN[fault]
    path = directory / name
    if edit is None:
        path.unlink()
    else:
        lines = edit(path.read_text().splitlines())
        path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(SpikeSepError, match=said) as caught:
        validate_data_dir(directory)
    assert str(path.parent) in str(caught.value)
    assert "; " in str(caught.value)


def test_id_without_its_speaker_is_an_error_even_if_the_lists_agree(data_dir):
    directory, _ = data_dir
    for path in directory.iterdir():
        path.write_text(path.read_text().replace("ann_cleo-00001", "cleo_ann-00001"))
    with pytest.raises(SpikeSepError, match=r"utt2spk:3: .*does not begin"):
        validate_data_dir(directory)


def test_error_for_a_missing_directory_says_what_to_run(tmp_path):
    with pytest.raises(SpikeSepError, match="spikesep-prepare mixtures"):
        read_data_dir(tmp_path / "tr")
