"""Noise recordings in the layouts of public releases, split into training and held-out ones.

WHAM! has sets of its own. Elsewhere a tenth is held out, chosen by names alone, so that it is the
same on every machine. Of DEMAND, whole environments are held out.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import walk_files
from spikesep.separation.audio.files import AUDIO_SUFFIXES

HELD_OUT_SHARE = 0.1
OPTION = "--mixing.dynamic.noise.recordings"

NamedFile = tuple[str, Path]
"""A file and the name of the group that is held out as a whole."""


def list_noise(entries: Sequence[str], held_out: bool) -> list[Path]:
    """List the training or held-out files of noise recordings.

    Args:
        entries: `layout:root` for each collection (`NoiseConfig.recordings`).
        held_out: List the held-out files instead of those for training.

    Raises:
        SpikeSepError: If a layout is unknown, or a folder is missing or has no files of its layout.
    """
    files = []
    for entry in entries:
        layout, _, folder = entry.partition(":")
        if layout not in LAYOUTS:
            raise SpikeSepError(f"{OPTION} {entry}: {layout} is none of {', '.join(LAYOUTS)}")
        root = Path(folder)
        if not folder or not root.is_dir():
            raise SpikeSepError(f"{OPTION} {entry}: {folder or 'nothing'} is not a folder")
        training, others = LAYOUTS[layout](root.resolve())
        if not training or not others:
            n = len(training) + len(others)
            raise SpikeSepError(
                f"{OPTION} {entry}: {n} noise recordings in the layout {layout}, at least two are "
                f"needed; {REMEDIES[layout]}"
            )
        files += others if held_out else training
    return files


def hold_out(files: Iterable[NamedFile]) -> tuple[list[Path], list[Path]]:
    """Split files into training and held-out ones by hashes of the names of their groups."""
    groups = defaultdict(list)
    for name, path in files:
        groups[name].append(path)
    order = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())
    n = max(1, round(HELD_OUT_SHARE * len(order))) if len(order) > 1 else 0
    split = ([path for name in names for path in groups[name]] for names in (order[n:], order[:n]))
    training, others = (sorted(paths) for paths in split)
    return training, others


def _folder(root: Path) -> tuple[list[Path], list[Path]]:
    return hold_out((path.relative_to(root).as_posix(), path) for path in _audio_files(root))


def _wham(root: Path) -> tuple[list[Path], list[Path]]:
    """Split `tr`, `cv` and `tt` as WHAM! does."""
    home = root / "wham_noise" if (root / "wham_noise").is_dir() else root
    training, closed, opened = (sorted((home / s).glob("*.wav")) for s in ("tr", "cv", "tt"))
    return training, closed + opened


def _musan(root: Path) -> tuple[list[Path], list[Path]]:
    """Split the part `noise`; MUSAN also has speech and music."""
    home = next((f for f in (root / "musan" / "noise", root / "noise") if f.is_dir()), None)
    if home is None:
        return [], []
    return hold_out((path.relative_to(home).as_posix(), path) for path in _audio_files(home))


def _demand(root: Path) -> tuple[list[Path], list[Path]]:
    """Split the environments, of which the first of 16 channels is used."""
    first = (path for path in sorted(walk_files(root)) if path.name == "ch01.wav")
    return hold_out((path.parent.name, path) for path in first)


def _audio_files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(walk_files(root)) if path.suffix.lower() in AUDIO_SUFFIXES)


LAYOUTS: dict[str, Callable[[Path], tuple[list[Path], list[Path]]]] = {
    "folder": _folder,
    "wham": _wham,
    "musan": _musan,
    "demand": _demand,
}
"""Functions of the root that return the training and held-out files of each layout."""
REMEDIES = {
    "folder": "give a folder of audio files",
    "wham": "give the folder wham_noise with tr, cv and tt",
    "musan": "give the folder musan with noise in it",
    "demand": "give the folder of the unpacked environments, such as DKITCHEN/ch01.wav",
}
