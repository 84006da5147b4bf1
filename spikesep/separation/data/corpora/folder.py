"""The user's own recordings: one folder per speaker, `root/<speaker>/**/*`.

Where these hold none, files are `root/<speaker>-*`. Files may have any format of `AUDIO_SUFFIXES`.
`root/speakers.tsv` may list the sexes, with a line `speaker<TAB>f` or `speaker<TAB>m` per speaker.
"""

from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import read_lines, walk_files
from spikesep.separation.audio.files import AUDIO_SUFFIXES
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.screening import Recording
from spikesep.separation.data.corpora.table import SEXES, speaker_id


def recordings(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> list[Recording]:
    """List every audio file of the speakers below `config.root`.

    Raises:
        SpikeSepError: If the folder is missing, the name of a speaker's folder has no Latin letter
            or digit, two names reduce to the same id, or `speakers.tsv` is invalid.
    """
    root = corpus_root(config)
    sexes = _read_sexes(root / "speakers.tsv")
    found, folders = [], {}
    for directory in sorted(root.iterdir()):
        if not directory.is_dir() or directory.name.startswith("."):
            continue
        speaker = speaker_id(directory.name)
        if not speaker or speaker in folders:
            fault = (
                f"is the same id as {folders[speaker]}"
                if speaker
                else "has no Latin letter or digit"
            )
            raise SpikeSepError(f"{directory}: as the name of a speaker, it {fault}; rename it")
        folders[speaker] = directory
        for path in sorted(walk_files(directory)):
            if path.suffix.lower() in AUDIO_SUFFIXES:
                name = str(path.relative_to(directory).with_suffix(""))
                found.append(Recording(path, name, speaker, sexes.get(speaker, "u")))
    return found or _named_after_speakers(root, sexes)


def _named_after_speakers(root: Path, sexes: dict[str, str]) -> list[Recording]:
    """List the audio files `root/<speaker>-*`."""
    found = []
    for path in sorted(root.iterdir()):
        name, dash, rest = path.stem.partition("-")
        speaker = speaker_id(name)
        if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES and speaker and dash:
            found.append(Recording(path, rest, speaker, sexes.get(speaker, "u")))
    return found


def corpus_root(config: CorpusConfig) -> Path:
    """Return the resolved folder of a corpus.

    Raises:
        SpikeSepError: If none is configured, or it does not exist.
    """
    if not config.root or not Path(config.root).is_dir():
        raise SpikeSepError(
            f"--corpus.root: {config.root or 'nothing'} is not a folder; "
            f"give the {config.name} corpus"
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
