"""Kaldi data directories of mixtures, the only form in which training and scoring know a data set.

They hold `wav.scp`, `spk1.scp` to `spkN.scp` and `utt2spk`, and usually `spk2utt`, `utt2sexes` and
`noise.scp`, which are optional in directories from elsewhere. Lists are read as Kaldi reads them,
except that commands in them are not run.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import WHITESPACE, atomic_path, is_listable, read_lines, split_fields

SEXES = ("f", "m", "u")

KaldiList = dict[str, tuple[int, str]]
"""Line number and value of each id in a list."""


@dataclass(frozen=True)
class Mixture:
    """A mixture and its parts, for any number of speakers.

    Attributes:
        utt_id: Starts with `spkA_spkB-`.
        mixture: Audio file of the mixture.
        sources: Audio files of the voices, as they occur in the mixture.
        speakers: Speakers of the sources, letters and digits.
        sexes: Sexes of the speakers: `f`, `m`, or `u` if unknown.
        noise: Audio file of what the mixture holds besides the voices, if any.
        has_residual: Whether the mixture was found to differ from the sum of sources and noise
            (see `mixture_files.find_residuals`).
    """

    utt_id: str
    mixture: Path
    sources: tuple[Path, ...]
    speakers: tuple[str, ...]
    sexes: tuple[str, ...]
    noise: Path | None = None
    has_residual: bool = False

    @property
    def group(self) -> str:
        """`same` or `diff` for the sexes of the speakers, or `unknown` if one is unknown."""
        if "u" in self.sexes:
            return "unknown"
        return "same" if len(set(self.sexes)) == 1 else "diff"


def write_data_dir(directory: str | Path, mixtures: list[Mixture]) -> None:
    """Write the lists of a data directory, all or none of them; other files are kept.

    Lines are sorted by code point, which for UTF-8 is the order of the C locale. Audio paths are
    absolute, so that the directory can be read from anywhere.

    Raises:
        SpikeSepError: If there are no mixtures, they differ in the number of speakers, or a list
            cannot hold an id or a path.
    """
    directory = Path(directory)
    lists = _list_contents(directory, mixtures)
    with ExitStack() as stack:
        for name, text in lists.items():
            temporary = stack.enter_context(atomic_path(directory / name))
            temporary.write_text(text, encoding="utf-8")
    for path in _outdated_lists(directory, lists):
        path.unlink()


def is_written(directory: str | Path, mixtures: list[Mixture]) -> bool:
    """Return whether a directory holds exactly the lists that `write_data_dir` would write."""
    directory = Path(directory)
    lists = _list_contents(directory, mixtures)
    try:
        same = all((directory / name).read_bytes() == text.encode() for name, text in lists.items())
        return same and not _outdated_lists(directory, lists)
    except OSError:
        return False


def _outdated_lists(directory: Path, lists: dict[str, str]) -> list[Path]:
    """Return lists of an earlier set, with more speakers or with noise."""
    optional = re.compile(r"spk[1-9][0-9]*\.scp|noise\.scp")
    return [
        path
        for path in directory.iterdir()
        if optional.fullmatch(path.name) and path.name not in lists
    ]


def read_data_dir(directory: str | Path) -> list[Mixture]:
    """Read a data directory and check everything except the audio files.

    Without `utt2sexes`, sexes are unknown. A `~` at the beginning of a path is the home folder.

    Raises:
        SpikeSepError: For the first fault (see `validate_data_dir`), as `file:line: fault; remedy`.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise SpikeSepError(
            f"{directory}: no such data directory; run spikesep-prepare mixtures first"
        )
    source_lists = _source_lists(directory)
    wav = _read_list(directory / "wav.scp")
    sources = {path: _read_list(path, like=wav) for path in source_lists}
    noise = _read_optional_list(directory / "noise.scp", wav)
    utt2spk = _read_list(directory / "utt2spk", like=wav)
    utt2sexes = _read_optional_list(directory / "utt2sexes", wav)
    mixtures = []
    for utt_id, (line, path) in wav.items():
        speakers = tuple(utt2spk[utt_id][1].split("_"))
        _check_speakers(f"{directory / 'utt2spk'}:{line}", utt_id, speakers, len(sources))
        sexes = ("u",) * len(sources)
        if utt2sexes:
            sexes = tuple(split_fields(utt2sexes[utt_id][1]))
            _check_sexes(f"{directory / 'utt2sexes'}:{line}", sexes, len(sources))
        mixture_path = _audio_path(f"{directory / 'wav.scp'}:{line}", path)
        source_paths = tuple(
            _audio_path(f"{source}:{line}", column[utt_id][1]) for source, column in sources.items()
        )
        where = f"{directory / 'noise.scp'}:{line}"
        noise_path = _audio_path(where, noise[utt_id][1]) if noise else None
        mixtures.append(Mixture(utt_id, mixture_path, source_paths, speakers, sexes, noise_path))
    if (directory / "spk2utt").exists():
        speaker_of = {utt_id: speaker for utt_id, (_, speaker) in utt2spk.items()}
        _check_spk2utt(directory / "spk2utt", speaker_of)
    return mixtures


def validate_data_dir(directory: str | Path) -> list[Mixture]:
    """Read a data directory, and check that its audio files exist.

    A valid directory has all required lists. Each list is sorted, without duplicates, and has the
    ids of `wav.scp`. Every line has its fields. Ids start with their speakers. `spk2utt` agrees
    with `utt2spk`. Every audio file exists.

    Raises:
        SpikeSepError: For the first fault, as `file:line: fault; remedy`.
    """
    directory = Path(directory)
    mixtures = read_data_dir(directory)
    for line, mixture in enumerate(mixtures, start=1):
        names = ["wav.scp", *(f"spk{n}.scp" for n in range(1, len(mixture.sources) + 1))]
        paths = [mixture.mixture, *mixture.sources]
        if mixture.noise:
            names, paths = [*names, "noise.scp"], [*paths, mixture.noise]
        for name, path in zip(names, paths, strict=True):
            if not path.is_file():
                raise SpikeSepError(
                    f"{directory / name}:{line}: no audio file {path}; "
                    "run spikesep-prepare mixtures again"
                )
    return mixtures


def check_writable(directory: str | Path, mixtures: list[Mixture]) -> None:
    """Check that `write_data_dir` can list these mixtures, before their audio files exist.

    Raises:
        SpikeSepError: See `write_data_dir`.
    """
    _list_contents(Path(directory), mixtures)


def _source_lists(directory: Path) -> list[Path]:
    """Return `spk1.scp` to `spkN.scp`; other names, such as `spk1 (copy).scp`, are not lists."""
    numbers = {
        int(m[1])
        for path in directory.iterdir()
        if (m := re.fullmatch(r"spk([1-9][0-9]*)\.scp", path.name))
    }
    if len(numbers) < 2 or max(numbers) != len(numbers):
        missing = next(n for n in count(1) if n not in numbers)
        raise SpikeSepError(
            f"{directory / f'spk{missing}.scp'}: missing; "
            "give spk1.scp, spk2.scp and so on without a gap"
        )
    return [directory / f"spk{n}.scp" for n in sorted(numbers)]


def _list_contents(directory: Path, mixtures: list[Mixture]) -> dict[str, str]:
    """Return the content of every list, after checking ids and paths."""
    mixtures = sorted(mixtures, key=lambda mixture: mixture.utt_id)
    _check_mixtures(directory, mixtures)
    by_speaker: dict[str, list[str]] = {}
    for mixture in mixtures:
        by_speaker.setdefault("_".join(mixture.speakers), []).append(mixture.utt_id)
    lists = {"wav.scp": [f"{m.utt_id} {_listed_path(m.mixture)}" for m in mixtures]}
    for n in range(len(mixtures[0].speakers)):
        lists[f"spk{n + 1}.scp"] = [f"{m.utt_id} {_listed_path(m.sources[n])}" for m in mixtures]
    noise = [(m.utt_id, m.noise) for m in mixtures if m.noise]
    if len(noise) == len(mixtures):
        lists["noise.scp"] = [f"{utt_id} {_listed_path(path)}" for utt_id, path in noise]
    elif noise:
        raise SpikeSepError(
            f"{directory}: mixture {noise[0][0]} has noise and others have none; give all or none"
        )
    lists["utt2spk"] = [f"{m.utt_id} {'_'.join(m.speakers)}" for m in mixtures]
    lists["spk2utt"] = [f"{speaker} {' '.join(ids)}" for speaker, ids in sorted(by_speaker.items())]
    lists["utt2sexes"] = [f"{m.utt_id} {' '.join(m.sexes)}" for m in mixtures]
    return {name: "".join(f"{line}\n" for line in lines) for name, lines in lists.items()}


def _check_mixtures(directory: Path, mixtures: list[Mixture]) -> None:
    if not mixtures:
        raise SpikeSepError(f"{directory}: there are no mixtures to list; ask for at least one")
    n_speakers = len(mixtures[0].speakers)
    for mixture in mixtures:
        where = f"{directory}: mixture {mixture.utt_id}"
        if {len(mixture.speakers), len(mixture.sources), len(mixture.sexes)} != {n_speakers}:
            raise SpikeSepError(
                f"{where}: not {n_speakers} speakers, sources and sexes; give each mixture as many"
            )
        _check_speakers(where, mixture.utt_id, mixture.speakers, n_speakers, separator="-")
    if len({mixture.utt_id for mixture in mixtures}) < len(mixtures):
        raise SpikeSepError(f"{directory}: two mixtures share an id; give each its own")


def _read_optional_list(path: Path, like: KaldiList) -> KaldiList | None:
    return _read_list(path, like=like) if path.exists() else None


def _read_list(path: Path, like: KaldiList | None = None) -> KaldiList:
    """Read a sorted list, whose ids must be those of the list `like`, line by line."""
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SpikeSepError(
            f"{path}: missing or unreadable; run spikesep-prepare mixtures again ({error})"
        ) from error
    rows: KaldiList = {}
    previous = ""
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        parts = re.fullmatch(f"([^{WHITESPACE}]+)[ \t]+(.+)", line.rstrip(WHITESPACE), re.DOTALL)
        if not parts:
            raise SpikeSepError(
                f"{where}: an id and a value are needed, with a space between; correct the line"
            )
        key, value = parts.groups()
        if key == previous:
            raise SpikeSepError(f"{where}: {key} occurs twice; remove one line")
        if key < previous:
            raise SpikeSepError(
                f"{where}: {key} comes after {previous}; sort the list with LC_ALL=C sort"
            )
        if like is not None and (number > len(like) or key not in like or like[key][0] != number):
            expected = list(like)[number - 1] if number <= len(like) else "no line"
            raise SpikeSepError(
                f"{where}: {key} where wav.scp has {expected}; give both lists the same ids"
            )
        rows[key] = (number, value)
        previous = key
    if like is not None and len(rows) < len(like):
        missing = list(like)[len(rows)]
        raise SpikeSepError(
            f"{path}:{len(rows) + 1}: no line for {missing}; give it and wav.scp the same ids"
        )
    if not rows:
        raise SpikeSepError(f"{path}: lists nothing; run spikesep-prepare mixtures again")
    return rows


def _check_spk2utt(path: Path, speaker_of: dict[str, str]) -> None:
    """Check that every line lists, sorted, exactly the utterances of a speaker in `utt2spk`."""
    listed: dict[str, str] = {}
    for speaker, (line, value) in _read_list(path).items():
        ids = split_fields(value)
        if ids != sorted(set(ids)):
            raise SpikeSepError(f"{path}:{line}: utterances are unsorted or repeated; sort them")
        for utt_id in ids:
            if speaker_of.get(utt_id) != speaker:
                other = speaker_of.get(utt_id, "no speaker")
                raise SpikeSepError(
                    f"{path}:{line}: {utt_id} is {other}'s in utt2spk; make the two agree"
                )
        listed |= dict.fromkeys(ids, speaker)
    missing = [utt_id for utt_id in speaker_of if utt_id not in listed]
    if missing:
        raise SpikeSepError(
            f"{path}:{len(set(listed.values())) + 1}: no line holds {missing[0]}; "
            "make it from utt2spk"
        )


def _check_speakers(
    where: str,
    utt_id: str,
    speakers: tuple[str, ...],
    n_speakers: int,
    separator: str = f"[^A-Za-z0-9{WHITESPACE}]",
) -> None:
    """Check the names of the speakers, and that the id starts with them and `separator`.

    `separator` is a regular expression. With `-`, which sorts before letters, digits and `_`,
    sorting by id sorts by speaker too.
    """
    joined = "_".join(speakers)
    if len(speakers) != n_speakers or not all(
        re.fullmatch("[A-Za-z0-9]+", speaker) for speaker in speakers
    ):
        raise SpikeSepError(
            f"{where}: {joined!r} is not {n_speakers} names of letters and digits joined by _; "
            "correct it"
        )
    if not re.fullmatch(f"{joined}{separator}[^{WHITESPACE}]*", utt_id):
        raise SpikeSepError(
            f"{where}: utterance id {utt_id!r} does not begin with its speaker {joined}-; rename it"
        )


def _check_sexes(where: str, sexes: tuple[str, ...], n_speakers: int) -> None:
    if len(sexes) != n_speakers or not set(sexes) <= set(SEXES):
        raise SpikeSepError(
            f"{where}: {n_speakers} of {' '.join(SEXES)} are needed; correct the line"
        )


def _audio_path(where: str, value: str) -> Path:
    if value.endswith("|") or value.startswith("|"):
        raise SpikeSepError(
            f"{where}: holds a command, and commands are not run; "
            "write its output to a wav file and list that"
        )
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise SpikeSepError(
            f"{where}: no home folder {value.partition('/')[0]}; give the whole path"
        ) from error


def _listed_path(path: Path) -> str:
    """Return a path as it is written in a list.

    Raises:
        SpikeSepError: If Kaldi would read another path from the list.
    """
    text = str(path.absolute())
    if not is_listable(text, "\n") or text != text.rstrip(f"{WHITESPACE}|"):
        raise SpikeSepError(
            f"{text!r}: a list cannot hold this path (a newline, a space or | at its end, "
            "or not UTF-8); rename it"
        )
    return text
