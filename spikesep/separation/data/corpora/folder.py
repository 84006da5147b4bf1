"""Anybody's own recordings: one folder a speaker, `root/<speaker>/**/*` in any format of `AUDIO_SUFFIXES`, and
optionally `root/speakers.tsv` with a line `speaker<TAB>f|m` each.
"""

from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import read_lines
from spikesep.separation.audio.files import AUDIO_SUFFIXES
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.screening import Recording
from spikesep.separation.data.corpora.table import SEXES, speaker_id


def recordings(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> list[Recording]:
    """Every audio file under `config.root`; nothing is fetched.

    Raises:
        SpikeSepError: no such folder, a folder name without a letter or digit, two names that come to one id, or a
            faulty `speakers.tsv`.
    """
    root = corpus_root(config)
    sexes = _read_sexes(root / "speakers.tsv")
    found, folders = [], {}
    for directory in sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    ):
        speaker = speaker_id(directory.name)
        if not speaker or speaker in folders:
            other = f"is the same id as {folders[speaker]}" if speaker else "has no letter or digit"
            raise SpikeSepError(f"{directory}: as a speaker, the name {other}; rename the folder")
        folders[speaker] = directory
        files = sorted(
            path for path in directory.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES
        )
        found += [
            Recording(
                path,
                str(path.relative_to(directory).with_suffix("")),
                speaker,
                sexes.get(speaker, "u"),
            )
            for path in files
        ]
    return found


def corpus_root(config: CorpusConfig) -> Path:
    """The folder that the user gave.

    Raises:
        SpikeSepError: none was given, or it is not there.
    """
    if not config.root or not Path(config.root).is_dir():
        raise SpikeSepError(
            f"--corpus.root: {config.root or 'nothing'} is not a folder; give the {config.name} corpus"
        )
    return Path(config.root).resolve()


def _read_sexes(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    sexes = {}
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SpikeSepError(f"{path}: cannot be read ({error}); save it as UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, sex = line.partition("\t")
        sex = sex.strip().lower()
        if not speaker_id(name) or sex not in SEXES:
            raise SpikeSepError(
                f"{path}:{number}: {line!r} is not speaker<TAB>f or m; correct the line"
            )
        sexes[speaker_id(name)] = sex
    return sexes
