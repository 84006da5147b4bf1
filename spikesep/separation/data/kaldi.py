"""Kaldi data directories of mixtures, which are all that training and scoring know of a data set.

They hold `wav.scp`, `spk1.scp` to `spkN.scp` and `utt2spk`; also `spk2utt`, `utt2sexes` and `noise.scp`, which others'
directories may lack. Lists are read as Kaldi reads them, except that no command in them is run.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import SPACES, atomic_path, fields_of, listable, read_lines

SEXES = ("f", "m", "u")


@dataclass(frozen=True)
class Mixture:
    """One mixture and what it is made of, for any number of speakers.

    Attributes:
        utt_id: begins with `spkA_spkB-`.
        mixture: the audio file of the sum.
        sources: the audio files of the voices, as they are in the sum.
        speakers: of the sources, letters and digits.
        sexes: of the speakers: `f`, `m`, or `u` where it is not known.
        noise: the audio file of what is in the sum beside the voices, if anything.
        has_residual: whether the mixture is known to differ from the sum of sources and noise (see `dataset.listen`).
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
        """`same` or `diff` sex, or `unknown` where a sex is not known."""
        if "u" in self.sexes:
            return "unknown"
        return "same" if len(set(self.sexes)) == 1 else "diff"


def write_data_dir(directory: str | Path, mixtures: list[Mixture]) -> None:
    """Write the lists of a data directory, all of them or none; other files there stay.

    Lines are sorted by code point, which for UTF-8 is the C locale's order. Audio paths are written absolute, so that
    the directory can be read from anywhere.

    Raises:
        SpikeSepError: no mixtures, differing numbers of speakers, or an id or path that a list cannot hold.
    """
    directory = Path(directory)
    lists = _lists(directory, mixtures)
    with ExitStack() as stack:
        for name, text in lists.items():
            temporary = stack.enter_context(atomic_path(directory / name))
            temporary.write_text(text, encoding="utf-8")
    for path in _of_an_earlier_set(directory, lists):
        path.unlink()


def is_written(directory: str | Path, mixtures: list[Mixture]) -> bool:
    """Whether a directory holds the very lists that `write_data_dir` would write."""
    directory = Path(directory)
    lists = _lists(directory, mixtures)
    try:
        same = all((directory / name).read_bytes() == text.encode() for name, text in lists.items())
        return same and not _of_an_earlier_set(directory, lists)
    except OSError:
        return False


def _of_an_earlier_set(directory: Path, lists: dict[str, str]) -> list[Path]:
    """Lists there of more speakers, or of noise."""
    optional = re.compile(r"spk[1-9][0-9]*\.scp|noise\.scp")
    return [
        path
        for path in directory.iterdir()
        if optional.fullmatch(path.name) and path.name not in lists
    ]


def read_data_dir(directory: str | Path) -> list[Mixture]:
    """Read a data directory, checking all of it but the audio files.

    Without `utt2sexes`, sexes are unknown. A `~` at the beginning of a path is the home folder.

    Raises:
        SpikeSepError: `file:line: what; remedy`, for the first fault (see `validate_data_dir`).
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise SpikeSepError(
            f"{directory}: no such data directory; run spikesep-prepare mixtures first"
        )
    sources = _source_lists(directory)
    mixed = _read_list(directory / "wav.scp")
    columns = [_read_list(path, like=mixed) for path in sources]
    noise_path = directory / "noise.scp"
    noise = _read_list(noise_path, like=mixed) if noise_path.exists() else None
    utt2spk = _read_list(directory / "utt2spk", like=mixed)
    sexes_path = directory / "utt2sexes"
    utt2sexes = _read_list(sexes_path, like=mixed) if sexes_path.exists() else None
    mixtures = []
    for utt_id, (line, wav) in mixed.items():
        speakers = tuple(utt2spk[utt_id][1].split("_"))
        sexes = tuple(fields_of(utt2sexes[utt_id][1])) if utt2sexes else ("u",) * len(sources)
        _check_speakers(f"{directory / 'utt2spk'}:{line}", utt_id, speakers, len(sources))
        if len(sexes) != len(sources) or not set(sexes) <= set(SEXES):
            raise SpikeSepError(
                f"{sexes_path}:{line}: {len(sources)} of {' '.join(SEXES)} are needed; correct the line"
            )
        paths = [_audio_path(f"{directory / 'wav.scp'}:{line}", wav)]
        paths += [
            _audio_path(f"{f}:{line}", column[utt_id][1])
            for f, column in zip(sources, columns, strict=True)
        ]
        added = _audio_path(f"{noise_path}:{line}", noise[utt_id][1]) if noise else None
        mixtures.append(Mixture(utt_id, paths[0], tuple(paths[1:]), speakers, sexes, added))
    if (directory / "spk2utt").exists():
        _check_spk2utt(
            directory / "spk2utt", {utt_id: speaker for utt_id, (_, speaker) in utt2spk.items()}
        )
    return mixtures


def validate_data_dir(directory: str | Path) -> list[Mixture]:
    """Check a data directory, its audio files' presence too, and return what it lists.

    A sound one has every list that it must have. Each list is sorted, without duplicates, with the ids of `wav.scp`;
    every line has its fields; ids begin with the speakers they belong to; `spk2utt` says what `utt2spk` says; every
    audio file is there.

    Raises:
        SpikeSepError: `file:line: what; remedy`, for the first fault.
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
                    f"{directory / name}:{line}: no audio file {path}; run spikesep-prepare mixtures again"
                )
    return mixtures


def check_writable(directory: str | Path, mixtures: list[Mixture]) -> None:
    """Check, before there are audio files, that `write_data_dir` can list these mixtures.

    Raises:
        SpikeSepError: as `write_data_dir`.
    """
    _lists(Path(directory), mixtures)


def _source_lists(directory: Path) -> list[Path]:
    """`spk1.scp` to `spkN.scp`; other names, such as `spk1 (copy).scp`, are not lists."""
    numbers = {
        int(m[1])
        for path in directory.iterdir()
        if (m := re.fullmatch(r"spk([1-9][0-9]*)\.scp", path.name))
    }
    if len(numbers) < 2 or max(numbers) != len(numbers):
        absent = next(n for n in count(1) if n not in numbers)
        raise SpikeSepError(
            f"{directory / f'spk{absent}.scp'}: missing; give spk1.scp, spk2.scp and so on without a gap"
        )
    return [directory / f"spk{n}.scp" for n in sorted(numbers)]


def _lists(directory: Path, mixtures: list[Mixture]) -> dict[str, str]:
    """The content of every list, ids and paths checked."""
    mixtures = sorted(mixtures, key=lambda mixture: mixture.utt_id)
    if not mixtures:
        raise SpikeSepError(f"{directory}: there are no mixtures to list; ask for at least one")
    n_speakers = len(mixtures[0].speakers)
    by_speaker: dict[str, list[str]] = {}
    for mixture in mixtures:
        where = f"{directory}: mixture {mixture.utt_id}"
        if {len(mixture.speakers), len(mixture.sources), len(mixture.sexes)} != {n_speakers}:
            raise SpikeSepError(
                f"{where}: not {n_speakers} speakers, sources and sexes; give each mixture as many"
            )
        _check_speakers(where, mixture.utt_id, mixture.speakers, n_speakers, then="-")
        by_speaker.setdefault("_".join(mixture.speakers), []).append(mixture.utt_id)
    if len({mixture.utt_id for mixture in mixtures}) < len(mixtures):
        raise SpikeSepError(f"{directory}: two mixtures share an id; give each its own")
    lists = {"wav.scp": [f"{m.utt_id} {_listed(m.mixture)}" for m in mixtures]}
    for n in range(n_speakers):
        lists[f"spk{n + 1}.scp"] = [f"{m.utt_id} {_listed(m.sources[n])}" for m in mixtures]
    noisy = [mixture for mixture in mixtures if mixture.noise]
    if len(noisy) == len(mixtures):
        lists["noise.scp"] = [f"{m.utt_id} {_listed(m.noise)}" for m in noisy]
    elif noisy:
        raise SpikeSepError(
            f"{directory}: mixture {noisy[0].utt_id} has noise and others have none; give all or none"
        )
    lists["utt2spk"] = [f"{m.utt_id} {'_'.join(m.speakers)}" for m in mixtures]
    lists["spk2utt"] = [f"{speaker} {' '.join(ids)}" for speaker, ids in sorted(by_speaker.items())]
    lists["utt2sexes"] = [f"{m.utt_id} {' '.join(m.sexes)}" for m in mixtures]
    return {name: "".join(f"{line}\n" for line in lines) for name, lines in lists.items()}


def _read_list(path: Path, like: dict | None = None) -> dict[str, tuple[int, str]]:
    """`id -> (line number, rest of the line)` of a sorted list; `like` is one whose ids it must have, line by line."""
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SpikeSepError(
            f"{path}: missing or unreadable; run spikesep-prepare mixtures again ({error})"
        ) from error
    rows: dict[str, tuple[int, str]] = {}
    previous = ""
    expected = list(like) if like is not None else None
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        parts = re.fullmatch(f"([^{SPACES}]+)[ \t]+(.+)", line.rstrip(SPACES), re.DOTALL)
        if not parts:
            raise SpikeSepError(
                f"{where}: an id and a value are needed, with a space between; correct the line"
            )
        key, value = parts.groups()
        if key == previous:
            raise SpikeSepError(f"{where}: {key} stands twice; remove one line")
        if key < previous:
            raise SpikeSepError(
                f"{where}: {key} comes after {previous}; sort the list with LC_ALL=C sort"
            )
        if expected is not None and (number > len(expected) or expected[number - 1] != key):
            other = expected[number - 1] if number <= len(expected) else "no line"
            raise SpikeSepError(
                f"{where}: {key} where wav.scp has {other}; give both lists the same ids"
            )
        rows[key] = (number, value)
        previous = key
    if expected is not None and len(rows) < len(expected):
        missing = expected[len(rows)]
        raise SpikeSepError(
            f"{path}:{len(rows) + 1}: no line for {missing}; give it and wav.scp the same ids"
        )
    if not rows:
        raise SpikeSepError(f"{path}: lists nothing; run spikesep-prepare mixtures again")
    return rows


def _check_spk2utt(path: Path, speaker_of: dict[str, str]) -> None:
    """Every line lists, sorted, exactly the utterances that `utt2spk` gives to its speaker."""
    listed: dict[str, str] = {}
    for speaker, (line, ids) in _read_list(path).items():
        ids = fields_of(ids)
        if ids != sorted(set(ids)):
            raise SpikeSepError(f"{path}:{line}: utterances are unsorted or stand twice; sort them")
        for utt_id in ids:
            if speaker_of.get(utt_id) != speaker:
                other = speaker_of.get(utt_id, "no speaker")
                raise SpikeSepError(
                    f"{path}:{line}: {utt_id} is {other}'s in utt2spk; make the two agree"
                )
        listed |= dict.fromkeys(ids, speaker)
    forgotten = [utt_id for utt_id in speaker_of if utt_id not in listed]
    if forgotten:
        raise SpikeSepError(
            f"{path}:{len(set(listed.values())) + 1}: no line holds {forgotten[0]}; make it from utt2spk"
        )


def _check_speakers(
    where: str,
    utt_id: str,
    speakers: tuple[str, ...],
    n_speakers: int,
    then: str = f"[^A-Za-z0-9{SPACES}]",
) -> None:
    """Check that all speakers have names, and that the id begins with these and `then`, a pattern.

    With `-`, which sorts before letters, digits and `_`, ids are in order by speaker, too.
    """
    joined = "_".join(speakers)
    if len(speakers) != n_speakers or not all(
        re.fullmatch("[A-Za-z0-9]+", speaker) for speaker in speakers
    ):
        raise SpikeSepError(
            f"{where}: {joined!r} is not {n_speakers} names of letters and digits joined by _; correct it"
        )
    if not re.fullmatch(f"{joined}{then}[^{SPACES}]*", utt_id):
        raise SpikeSepError(
            f"{where}: utterance id {utt_id!r} does not begin with its speaker {joined}-; rename it"
        )


def _audio_path(where: str, value: str) -> Path:
    if value.endswith("|") or value.startswith("|"):
        raise SpikeSepError(
            f"{where}: holds a command, and commands are not run; write what it puts out to a wav file and list that"
        )
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise SpikeSepError(
            f"{where}: no home folder {value.partition('/')[0]}; give the whole path"
        ) from error


def _listed(path: Path) -> str:
    """A path as it stands in a list.

    Raises:
        SpikeSepError: Kaldi would read another path from the list.
    """
    text = str(path.absolute())
    if not listable(text, "\n") or text != text.rstrip(f"{SPACES}|"):
        raise SpikeSepError(
            f"{text!r}: a list cannot hold this path (a newline, a space or | at its end, or not UTF-8); rename it"
        )
    return text
