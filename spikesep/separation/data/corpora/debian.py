"""Real voices from Debian packages, which a Debian or Ubuntu machine can fetch without root.

They are telephone prompts, the spoken captions of a drawing program, and the recordings behind a
speech synthesizer. Packages are unpacked into the folder of downloads, never installed.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path, read_json, write_json
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.screening import Recording
from spikesep.separation.data.corpora.table import speaker_id


class FetchError(SpikeSepError):
    """A package cannot be fetched on this machine; another corpus may be used instead."""


@dataclass(frozen=True)
class Voice:
    """One speaker.

    Attributes:
        name: Speaker id.
        sex: `f` or `m`.
        packages: Debian packages with the recordings.
        globs: Patterns of the files, relative to the unpacked package.
        role: `seen` or `unseen` for the default voices; `further` voices must be configured.
    """

    name: str
    sex: str
    packages: tuple[str, ...]
    globs: tuple[str, ...]
    role: str = "further"


ASTERISK_SOUNDS = "usr/share/asterisk/sounds"


def _asterisk(name: str, sex: str, role: str, package: str, glob: str) -> Voice:
    return Voice(name, sex, (package,), (f"{ASTERISK_SOUNDS}/{glob}",), role)


def _tuxpaint(language: str, sex: str, role: str = "further") -> Voice:
    glob = f"usr/share/tuxpaint/stamps/**/*_desc_{language}.ogg"
    return Voice(f"tuxpaint{language}", sex, ("tuxpaint-stamps-default",), (glob,), role)


VOICES = (
    Voice(  # one woman, in English and in Spanish
        "allison",
        "f",
        ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-es-wav"),
        (
            f"{ASTERISK_SOUNDS}/en_US_f_Allison/**/*.wav",
            f"{ASTERISK_SOUNDS}/es_MX_f_Allison/**/*.wav",
        ),
        "seen",
    ),
    _asterisk("june", "f", "seen", "asterisk-core-sounds-fr-wav", "fr_CA_f_June/**/*.wav"),
    _asterisk(
        "ivrvoice", "f", "seen", "asterisk-core-sounds-ru-wav", "ru_RU_f_IvrvoiceRU/**/*.wav"
    ),
    _tuxpaint("ro", "f", "seen"),
    _asterisk("carlo", "m", "seen", "asterisk-core-sounds-it-wav", "it_IT_m_Carlo/**/*.wav"),
    Voice(
        "nsh",
        "m",
        ("festvox-ru",),
        ("usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav/*.wav",),
        "seen",
    ),
    _tuxpaint("ru", "m", "seen"),
    _asterisk("armelle", "f", "unseen", "asterisk-prompt-fr-armelle", "fr/**/*.gsm"),
    _asterisk("esco", "f", "unseen", "asterisk-prompt-es-co", "es/**/*.gsm"),
    _tuxpaint("bg", "m", "unseen"),
    _tuxpaint("da", "m", "unseen"),
    _asterisk("menardi", "f", "further", "asterisk-core-sounds-it-wav", "it_IT_f_Menardi/**/*.wav"),
    _tuxpaint("el", "f"),
    _tuxpaint("es", "f"),
    _tuxpaint("be", "f"),
)

NOT_SPEECH = ("beep", "beeperr", "ascending-2tone", "descending-2tone", "tt-monkeys")
"""Stems of Asterisk's signal tones and screaming monkeys; its folder `silence` is excluded too."""

STAMP = "unpacked.json"


def recordings(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> list[Recording]:
    """List the files of the selected voices, and fetch missing packages.

    A voice may have no files, as Debian releases differ in the Italian voices. Whether enough
    voices are left is checked when they are split.

    Raises:
        FetchError: If a package cannot be fetched or unpacked.
        SpikeSepError: If a configured voice is not in `VOICES`.
    """
    voices = _select_voices(config)
    folders = fetch(sorted({package for voice in voices for package in voice.packages}), downloads)
    found = []
    for voice in voices:
        for package in voice.packages:
            root = folders[package]
            for path in sorted({path for pattern in voice.globs for path in root.glob(pattern)}):
                if path.stem not in NOT_SPEECH and path.parent.name != "silence":
                    name, unseen = _short_name(path, root), voice.role == "unseen"
                    found.append(Recording(path, name, voice.name, voice.sex, unseen))
    return found


def fetch(packages: Iterable[str], downloads: Path) -> dict[str, Path]:
    """Fetch and unpack packages below `downloads/debian/`, and return their folders.

    Packages that are already unpacked are not fetched again. apt checks the hash of its downloads.
    A folder appears only when it is complete, and is unpacked again if files are missing.

    Raises:
        FetchError: If apt-get or dpkg-deb is missing or fails.
    """
    home = downloads.resolve() / "debian"
    folders = {package: home / package for package in packages}
    missing = [package for package, folder in folders.items() if not _is_complete(folder)]
    if not missing:
        return folders
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise FetchError(f"the debian corpus needs {tool}, which this machine lacks")
    home.mkdir(parents=True, exist_ok=True)
    print(f"fetching {len(missing)} Debian packages into {home}: {' '.join(missing)}", flush=True)
    _download(missing, home)
    for package in missing:
        _unpack(_newest_deb(home, package), folders[package])
    return folders


def _select_voices(config: CorpusConfig) -> list[Voice]:
    """Return the configured seen and unseen voices, or the default ones of either role."""
    known = {voice.name: voice for voice in VOICES}
    selected: dict[str, Voice] = {}
    for names, role in ((config.seen_speakers, "seen"), (config.unseen_speakers, "unseen")):
        wanted = [speaker_id(name) for name in names] or [
            voice.name for voice in VOICES if voice.role == role
        ]
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise SpikeSepError(
                f"--corpus.{role}_speakers: no Debian voice {unknown[0]}; "
                f"choose from {', '.join(known)}"
            )
        selected |= {name: known[name] for name in wanted}
    return list(selected.values())


def _is_complete(folder: Path) -> bool:
    if not (folder / STAMP).is_file():
        return False
    return read_json(folder / STAMP).get("files") == _count_files(folder) - 1  # without the stamp


def _count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _download(packages: list[str], home: Path) -> None:
    """Run `apt-get download`; as root, update the package lists and retry if it fails."""
    command = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages]
    done = _run(command, home)
    if done.returncode and os.geteuid() == 0:
        print("apt-get does not find them; updating its lists", flush=True)
        _run(["apt-get", "update", "-qq"], home)
        done = _run(command, home)
    if done.returncode:
        raise FetchError(
            f"apt-get download failed ({_last_line(done)}); "
            "with a network, 'apt-get update' as root may help"
        )


def _unpack(deb: Path, folder: Path) -> None:
    with atomic_path(folder) as temporary:
        done = _run(["dpkg-deb", "-x", str(deb), str(temporary)], folder.parent)
        if done.returncode:
            deb.unlink()
            raise FetchError(
                f"{deb}: dpkg-deb could not unpack it ({_last_line(done)}); "
                "it was removed, fetch it again"
            )
        write_json(temporary / STAMP, {"package": deb.name, "files": _count_files(temporary)})
    deb.unlink()


def _newest_deb(home: Path, package: str) -> Path:
    debs = sorted(home.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    if not debs:
        raise FetchError(f"apt-get downloaded no {package}_*.deb into {home}")
    return debs[-1]


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def _last_line(done: subprocess.CompletedProcess) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"status {done.returncode}"


def _short_name(path: Path, root: Path) -> str:
    """Return the path without suffix and the folders that all files of a speaker share."""
    parts = path.relative_to(root).with_suffix("").parts
    skip = {"asterisk": 4, "tuxpaint": 4}.get(parts[2], len(parts) - 1)
    return "/".join(parts[skip:])
