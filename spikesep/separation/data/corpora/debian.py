"""Real voices that a Debian or Ubuntu machine can fetch with its own package manager and without root: telephone
prompts, a drawing program's spoken captions, and the recordings behind a speech synthesizer. Packages are unpacked into
the folder of downloads, never installed.
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
    """A package cannot be had on this machine; another corpus may do."""


@dataclass(frozen=True)
class Voice:
    """One speaker: in which packages, and which files there (globs, relative to where a package is unpacked)."""

    name: str
    sex: str
    packages: tuple[str, ...]
    globs: tuple[str, ...]
    role: str = "further"  # `seen` or `unseen` unless a config names its own voices; `further` ones are there to be named


ASTERISK = "usr/share/asterisk/sounds"
STAMPS = "usr/share/tuxpaint/stamps"
TUXPAINT = ("tuxpaint-stamps-default",)

VOICES = (
    Voice(  # one woman, in English and in Spanish
        "allison", "f", ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-es-wav"),
        (f"{ASTERISK}/en_US_f_Allison/**/*.wav", f"{ASTERISK}/es_MX_f_Allison/**/*.wav"), "seen",
    ),
    Voice("june", "f", ("asterisk-core-sounds-fr-wav",), (f"{ASTERISK}/fr_CA_f_June/**/*.wav",), "seen"),
    Voice("ivrvoice", "f", ("asterisk-core-sounds-ru-wav",), (f"{ASTERISK}/ru_RU_f_IvrvoiceRU/**/*.wav",), "seen"),
    Voice("tuxpaintro", "f", TUXPAINT, (f"{STAMPS}/**/*_desc_ro.ogg",), "seen"),
    Voice("carlo", "m", ("asterisk-core-sounds-it-wav",), (f"{ASTERISK}/it_IT_m_Carlo/**/*.wav",), "seen"),
    Voice("nsh", "m", ("festvox-ru",), ("usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav/*.wav",), "seen"),
    Voice("tuxpaintru", "m", TUXPAINT, (f"{STAMPS}/**/*_desc_ru.ogg",), "seen"),
    Voice("armelle", "f", ("asterisk-prompt-fr-armelle",), (f"{ASTERISK}/fr/**/*.gsm",), "unseen"),
    Voice("esco", "f", ("asterisk-prompt-es-co",), (f"{ASTERISK}/es/**/*.gsm",), "unseen"),
    Voice("tuxpaintbg", "m", TUXPAINT, (f"{STAMPS}/**/*_desc_bg.ogg",), "unseen"),
    Voice("tuxpaintda", "m", TUXPAINT, (f"{STAMPS}/**/*_desc_da.ogg",), "unseen"),
    Voice("menardi", "f", ("asterisk-core-sounds-it-wav",), (f"{ASTERISK}/it_IT_f_Menardi/**/*.wav",)),
    Voice("tuxpaintel", "f", TUXPAINT, (f"{STAMPS}/**/*_desc_el.ogg",)),
    Voice("tuxpaintes", "f", TUXPAINT, (f"{STAMPS}/**/*_desc_es.ogg",)),
    Voice("tuxpaintbe", "f", TUXPAINT, (f"{STAMPS}/**/*_desc_be.ogg",)),
)  # fmt: skip

NOT_SPEECH = ("beep", "beeperr", "ascending-2tone", "descending-2tone", "tt-monkeys")
"""File names of Asterisk's signals and of its screaming monkeys, beside the folder `silence`."""

STAMP = "unpacked.json"


def recordings(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> list[Recording]:
    """The files of the chosen voices, fetched where they are missing.

    A voice may turn out to have no files, as Debian's releases differ in the Italian one; whether that matters is seen
    when the voices are split.

    Raises:
        FetchError: a package cannot be fetched or unpacked here.
        SpikeSepError: a configured voice is not in `VOICES`.
    """
    voices = _chosen(config)
    folders = fetch(sorted({package for voice in voices for package in voice.packages}), downloads)
    found = []
    for voice in voices:
        for package in voice.packages:
            root = folders[package]
            files = sorted({path for pattern in voice.globs for path in root.glob(pattern)})
            found += [
                Recording(
                    path, _short_name(path, root), voice.name, voice.sex, voice.role == "unseen"
                )
                for path in files
                if path.stem not in NOT_SPEECH and path.parent.name != "silence"
            ]
    return found


def fetch(packages: Iterable[str], downloads: Path) -> dict[str, Path]:
    """Make sure that each package lies unpacked under `downloads/debian/`, and say where.

    Only what is missing is fetched. apt checks the hash of what it downloads; a folder gets its name once it is whole,
    and one that has lost files since is unpacked anew.

    Raises:
        FetchError: no apt-get or dpkg-deb here, or one of them failed.
    """
    home = downloads.resolve() / "debian"
    folders = {package: home / package for package in packages}
    missing = [package for package, folder in folders.items() if not _is_whole(folder)]
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


def _chosen(config: CorpusConfig) -> list[Voice]:
    """The voices that a config names, else the default ones, each side on its own."""
    known = {voice.name: voice for voice in VOICES}
    chosen: dict[str, Voice] = {}
    for names, role in ((config.seen_speakers, "seen"), (config.unseen_speakers, "unseen")):
        wanted = [speaker_id(name) for name in names] or [
            voice.name for voice in VOICES if voice.role == role
        ]
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise SpikeSepError(
                f"--corpus.{role}_speakers: no Debian voice {unknown[0]}; there is {', '.join(known)}"
            )
        chosen |= {name: known[name] for name in wanted}
    return list(chosen.values())


def _is_whole(folder: Path) -> bool:
    if not (folder / STAMP).is_file():
        return False
    return read_json(folder / STAMP).get("files") == _count_files(folder) - 1  # the stamp itself


def _count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _download(packages: list[str], home: Path) -> None:
    """`apt-get download`, once more after `apt-get update` where the lists lack a package and we may update them."""
    command = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages]
    done = _run(command, home)
    if done.returncode and os.geteuid() == 0:
        print("apt-get does not find them; updating its lists", flush=True)
        _run(["apt-get", "update", "-qq"], home)
        done = _run(command, home)
    if done.returncode:
        raise FetchError(
            f"apt-get download failed ({_last_line(done)}); with a network, 'apt-get update' as root may mend it"
        )


def _unpack(deb: Path, folder: Path) -> None:
    with atomic_path(folder) as temporary:
        done = _run(["dpkg-deb", "-x", str(deb), str(temporary)], folder.parent)
        if done.returncode:
            deb.unlink()
            raise FetchError(
                f"{deb}: dpkg-deb could not unpack it ({_last_line(done)}); it is removed, fetch it again"
            )
        write_json(temporary / STAMP, {"package": deb.name, "files": _count_files(temporary)})
    deb.unlink()  # all of it is in the folder now


def _newest_deb(home: Path, package: str) -> Path:
    debs = sorted(home.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    if not debs:
        raise FetchError(f"apt-get downloaded no {package}_*.deb into {home}")
    return debs[-1]


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True
    )


def _last_line(done: subprocess.CompletedProcess) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"status {done.returncode}"


def _short_name(path: Path, root: Path) -> str:
    """The path below what all files share, without suffix: it must tell files of one speaker apart, and be short."""
    parts = path.relative_to(root).with_suffix("").parts
    skip = {"asterisk": 4, "tuxpaint": 4}.get(parts[2], len(parts) - 1)
    return "/".join(parts[skip:])
