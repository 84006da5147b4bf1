"""LibriSpeech, or part of it, in its own layout.

`<subset>/<speaker>/<chapter>/*.flac` lies beside `SPEAKERS.TXT`. Voices of dev and test subsets are
unseen; without these subsets, voices are held out.
"""

from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import read_lines
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.folder import corpus_root
from spikesep.separation.data.corpora.screening import Recording

SPLIT_OF = {"train": "tr", "dev": "cv", "test": "tt"}
"""Split of subsets in LibriMix, by the first part of their names."""


def recordings(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> list[Recording]:
    """List every utterance below `config.root`; speakers missing in `SPEAKERS.TXT` have sex `u`.

    Raises:
        SpikeSepError: If the folder or `SPEAKERS.TXT` is missing, or a line of it is invalid.
    """
    root = corpus_root(config)
    sexes = _read_sexes(root / "SPEAKERS.TXT")
    found = []
    for path in sorted(root.glob("*/*/*/*.flac")):
        subset, speaker = path.relative_to(root).parts[:2]
        split = SPLIT_OF.get(subset.partition("-")[0])
        sex, unseen = sexes.get(speaker, "u"), split in ("cv", "tt")
        found.append(Recording(path, path.stem, speaker, sex, unseen, split))
    return found


def _read_sexes(path: Path) -> dict[str, str]:
    """Read lines `id | F or M | subset | minutes | name`; lines starting with `;` are comments."""
    if not path.is_file():
        raise SpikeSepError(
            f"{path}: missing; --corpus.root is the folder that holds SPEAKERS.TXT and the subsets"
        )
    sexes = {}
    for number, line in enumerate(read_lines(path, errors="replace"), start=1):
        if line.startswith(";") or not line.strip():
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 2 or fields[1] not in ("F", "M"):
            raise SpikeSepError(
                f"{path}:{number}: {line!r} is not 'id | F or M | ...'; use the file of the corpus"
            )
        sexes[fields[0]] = fields[1].lower()
    return sexes
