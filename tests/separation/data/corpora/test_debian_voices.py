import shutil
import subprocess

import pytest
import soundfile
from helpers.sound.speech import sentences, write_folder_corpus

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora import debian, list_utterances
from spikesep.separation.data.corpora.table import speaker_id


@pytest.fixture
def folder_corpus(tmp_path):
    return write_folder_corpus(tmp_path / "corpus")


def fake_package(folder, files):
    """Build a Debian package of audio files."""
    tree = folder / "tree"
    for name, (samples, rate) in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)
    control = tree / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: voices\nVersion: 1\nArchitecture: all\n"
        "Maintainer: x <x@example.org>\nDescription: x\n"
    )
    subprocess.run(
        ["dpkg-deb", "-b", tree, folder / "voices_1_all.deb"], check=True, capture_output=True
    )
    return folder / "voices_1_all.deb"


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb on this machine")
def test_packages_are_fetched_once_and_repaired(tmp_path, monkeypatch):
    sounds = "usr/share/asterisk/sounds/xx"
    files = {
        f"{sounds}/hello.wav": sentences()[0],
        f"{sounds}/beep.wav": sentences()[1],
        f"{sounds}/silence/1.wav": sentences()[2],
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
