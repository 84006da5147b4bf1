"""Mozilla Common Voice in the layout of its releases, of one language or of several.

`<language>/validated.tsv` lists the clips in `<language>/clips`. A speaker is a `client_id`, in any
language. Its terms ask not to identify speakers.
"""

from collections.abc import Iterator
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import read_lines
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.folder import corpus_root
from spikesep.separation.data.corpora.screening import Recording
from spikesep.separation.data.corpora.table import speaker_id

LIST = "validated.tsv"
SEX_OF = {"f": "f", "m": "m"}
"""Sex by the first letter of `gender`, such as `female` or `male_masculine`."""
ID_LENGTH = 16
"""Characters of the `client_id`, a hash of 128, that name a speaker."""


def recordings(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> list[Recording]:
    """List the validated clips of every language below `config.root`.

    A speaker whose sex differs between clips, or is not given, has sex `u`.

    Raises:
        SpikeSepError: If the folder or every `validated.tsv` is missing, or one is malformed.
    """
    root = corpus_root(config)
    lists = [root / LIST] if (root / LIST).is_file() else sorted(root.glob(f"*/{LIST}"))
    if not lists:
        raise SpikeSepError(
            f"{root / LIST}: missing; --corpus.root is the folder of a language, or of several"
        )
    rows = [row for path in lists for row in _read_clips(path)]
    sexes: dict[str, set[str]] = {}
    for _, speaker, sex in rows:
        sexes.setdefault(speaker, set()).update({sex} - {"u"})
    sex_of = {speaker: found.pop() if len(found) == 1 else "u" for speaker, found in sexes.items()}
    return [Recording(path, path.stem, speaker, sex_of[speaker]) for path, speaker, _ in rows]


def _read_clips(path: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the file, speaker and sex of each row."""
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SpikeSepError(
            f"{path}: cannot be read ({error}); unpack the release again"
        ) from error
    header = lines[0].split("\t") if lines else []
    missing = [name for name in ("client_id", "path") if name not in header]
    if missing:
        raise SpikeSepError(f"{path}:1: no column {missing[0]}; use the file of the release")
    for number, line in enumerate(lines[1:], start=2):
        row = dict(zip(header, line.split("\t"), strict=False))
        speaker = speaker_id(row.get("client_id", ""))[:ID_LENGTH]
        if not speaker or not row.get("path"):
            raise SpikeSepError(
                f"{path}:{number}: no client_id or path; use the file of the release"
            )
        clip = path.parent / "clips" / row["path"]
        clip = clip if clip.suffix else clip.with_suffix(".mp3")
        yield clip, speaker, SEX_OF.get(row.get("gender", "")[:1], "u")
