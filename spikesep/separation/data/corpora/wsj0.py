"""WSJ0 (LDC93S6A, CSR-I) in the layout of LDC, on separate discs or copied together.

Utterances are `wsj0/<set>/<speaker>/<utterance>.wv1`, in NIST SPHERE or converted to wav. Only the
close-talking microphone is read; `wv2` files are recordings of the same sentences by another one.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import read_lines, walk_files
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.folder import corpus_root
from spikesep.separation.data.corpora.screening import Recording

SEEN_SET, UNSEEN_SETS = "si_tr_s", ("si_dt_05", "si_et_05")
SUFFIXES = (".wv1", ".wav")
"""In order of preference, as a wav file may come from either microphone."""
CLOSED_SHARE = 0.3
"""Share of each training speaker's utterances in `cv`, close to that of the published lists."""


def recordings(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> list[Recording]:
    """List every utterance of the three sets of WSJ0-2mix.

    `si_tr_s` is divided into `tr` and `cv` by the seed, for mixtures without published lists. The
    other two sets are `tt`.

    Raises:
        SpikeSepError: If the folder holds no WSJ0.
    """
    root = corpus_root(config)
    files = _utterance_files(root)
    sexes = _read_sexes(root)
    by_speaker = defaultdict(list)
    for key in sorted(files):
        set_name, speaker, utterance = key.split("/")
        by_speaker[set_name, speaker].append((utterance, files[key]))
    found = []
    for (set_name, speaker), utterances in by_speaker.items():
        closed = set()
        if set_name == SEEN_SET:
            rng = random.Random(f"wsj0 {speaker} {seed}")
            closed = set(rng.sample(utterances, round(CLOSED_SHARE * len(utterances))))
        for utterance, path in utterances:
            unseen = set_name in UNSEEN_SETS
            split = "tt" if unseen else "cv" if (utterance, path) in closed else "tr"
            sex = sexes.get(speaker, "u")
            found.append(Recording(path, utterance, speaker, sex, unseen, split))
    return found


def _utterance_files(root: Path) -> dict[str, Path]:
    """Return the preferred file of each `set/speaker/utterance`, in lower case."""
    files: dict[str, Path] = {}
    for path in _candidates(root):
        key = "/".join(path.parts[-3:]).lower().rpartition(".")[0]
        if key not in files or _preference(path) < _preference(files[key]):
            files[key] = path
    if not files:
        raise SpikeSepError(
            f"{root}: holds no wsj0/{SEEN_SET}/<speaker>/*.wv1 (or .wav); "
            "--wsj0 is the folder that holds wsj0/"
        )
    return files


def _preference(path: Path) -> int:
    return SUFFIXES.index(path.suffix.lower())


def _candidates(root: Path) -> Iterator[Path]:
    """Yield recordings below `root` or below its discs, ignoring the case of names."""
    sets = {SEEN_SET, *UNSEEN_SETS}
    homes = [root]
    for pattern in ("*", "*/*", "*/*/*", "*/*/*/*"):
        homes += [path for path in root.glob(pattern) if path.is_dir()]
    for home in homes:
        if home.name.lower() in sets and home.parent.name.lower() == "wsj0":
            yield from (p for p in sorted(home.glob("*/*")) if p.suffix.lower() in SUFFIXES)


def _read_sexes(root: Path) -> dict[str, str]:
    """Read the speaker lists of the corpus (`*spkrinfo*.txt`).

    A line is the speaker and M or F; lines that start with `;` are comments.
    """
    sexes = {}
    paths = (p for p in walk_files(root) if re.search(r"spkrinfo.*\.txt$", p.name.lower()))
    for path in sorted(paths):
        for line in read_lines(path, errors="replace"):
            match = re.match(r"\s*([0-9a-z]{3})\s+([mf])\b", line.lower())
            if match and not line.startswith(";"):
                sexes[match[1]] = match[2]
    return sexes
