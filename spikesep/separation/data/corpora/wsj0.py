"""WSJ0 (LDC93S6A, CSR-I) in LDC's layout, on discs or copied together: `wsj0/<set>/<speaker>/<utterance>.wv1`, NIST
SPHERE, or already wav. Only the close microphone is read: `wv2` is another recording of the same sentence under the
same name.
"""

import random
import re
from collections import defaultdict
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import read_lines
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.folder import corpus_root
from spikesep.separation.data.corpora.screening import Recording

SEEN_SET, UNSEEN_SETS = "si_tr_s", ("si_dt_05", "si_et_05")
SUFFIXES = (".wv1", ".wav")
"""In order of preference: a wav file may have been made of either microphone."""
CLOSED_SHARE = 0.3
"""Of each training speaker's utterances; about what the published lists keep for `cv`."""


def recordings(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> list[Recording]:
    """Every utterance of the three sets that WSJ0-2mix draws from; nothing is fetched.

    `si_tr_s` is dealt to `tr` and `cv` by the seed, for mixtures without published lists; the other two are `tt`.

    Raises:
        SpikeSepError: the folder holds no WSJ0.
    """
    root = corpus_root(config)
    files: dict[str, Path] = {}
    for path in _candidates(root):
        key = "/".join(path.parts[-3:]).lower().rpartition(".")[0]
        if key not in files or SUFFIXES.index(path.suffix.lower()) < SUFFIXES.index(
            files[key].suffix.lower()
        ):
            files[key] = path
    if not files:
        raise SpikeSepError(
            f"{root}: no wsj0/{SEEN_SET}/<speaker>/*.wv1 (or .wav) in it; --wsj0 is the folder that holds wsj0/"
        )
    sexes = _read_sexes(root)
    by_speaker = defaultdict(list)
    for key in sorted(files):
        by_speaker[key.split("/")[0], key.split("/")[1]].append(key)
    found = []
    for (name, speaker), keys in by_speaker.items():
        chance = random.Random(f"wsj0 {speaker} {seed}")
        closed = (
            set(chance.sample(keys, round(CLOSED_SHARE * len(keys)))) if name == SEEN_SET else set()
        )
        for key in keys:
            split = "tt" if name in UNSEEN_SETS else "cv" if key in closed else "tr"
            utterance = key.rpartition("/")[2]
            found.append(
                Recording(
                    files[key], utterance, speaker, sexes.get(speaker, "u"), split == "tt", split
                )
            )
    return found


def _candidates(root: Path):
    """Recordings below `root` or below its discs, whatever the case of the names."""
    sets = {SEEN_SET, *UNSEEN_SETS}
    homes = [
        root,
        *(
            p
            for pattern in ("*", "*/*", "*/*/*", "*/*/*/*")
            for p in root.glob(pattern)
            if p.is_dir()
        ),
    ]
    for home in homes:
        if home.name.lower() in sets and home.parent.name.lower() == "wsj0":
            yield from (p for p in sorted(home.glob("*/*")) if p.suffix.lower() in SUFFIXES)


def _read_sexes(root: Path) -> dict[str, str]:
    """From the lists that come with the corpus (`*spkrinfo*.txt`): speaker, then M or F, after comments that begin
    with `;`."""
    sexes = {}
    for path in sorted(
        p for p in root.rglob("*") if re.search(r"spkrinfo.*\.txt$", p.name.lower())
    ):
        for line in read_lines(path, errors="replace"):
            match = re.match(r"\s*([0-9a-z]{3})\s+([mf])\b", line.lower())
            if match and not line.startswith(";"):
                sexes[match[1]] = match[2]
    return sexes
