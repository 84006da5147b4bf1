"""Kaldi data directories of mixtures: `wav.scp`, `spk1.scp` .. `spkN.scp`, `utt2spk`, `spk2utt`, `utt2sexes`
and, where there is noise, `noise.scp`. They
are all that training and scoring know of a data set, so that anybody's mixtures can take the place of ours.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path

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
    """

    utt_id: str
    mixture: Path
    sources: tuple[Path, ...]
    speakers: tuple[str, ...]
    sexes: tuple[str, ...]
    noise: Path | None = None

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
        SpikeSepError: no mixtures, differing numbers of speakers, or an id that a data directory cannot hold.
    """
    directory = Path(directory)
    lists = _lists(directory, sorted(mixtures, key=lambda mixture: mixture.utt_id))
    with ExitStack() as stack:
        for name, lines in lists.items():
            temporary = stack.enter_context(atomic_path(directory / name))
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for path in [
        *directory.glob("spk*.scp"),
        directory / "noise.scp",
    ]:  # of an earlier set with more speakers, or noise
        if path.name not in lists:
            path.unlink(missing_ok=True)


def read_data_dir(directory: str | Path) -> list[Mixture]:
    """Read a data directory, checking all of it but the audio files.

    Raises:
        SpikeSepError: `file:line: what; remedy`, for the first fault (see `validate_data_dir`).
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise SpikeSepError(f"{directory}: no such data directory; run spikesep-prepare mixtures first")
    sources = sorted(directory.glob("spk[0-9]*.scp"), key=lambda path: int(path.stem[3:]))
    if [path.stem for path in sources] != [f"spk{n}" for n in range(1, max(2, len(sources)) + 1)]:
        raise SpikeSepError(
            f"{directory}: needs spk1.scp, spk2.scp and so on without a gap; run spikesep-prepare again"
        )
    mixed = _read_list(directory / "wav.scp")
    columns = [_read_list(path, like=mixed) for path in sources]
    noise_path = directory / "noise.scp"
    noise = _read_list(noise_path, like=mixed) if noise_path.exists() else None
    utt2spk = _read_list(directory / "utt2spk", like=mixed)
    utt2sexes = _read_list(directory / "utt2sexes", like=mixed)
    mixtures = []
    for utt_id, (line, wav) in mixed.items():
        speakers = tuple(utt2spk[utt_id][1].split("_"))
        sexes = tuple(utt2sexes[utt_id][1].split())
        _check_speakers(f"{directory / 'utt2spk'}:{line}", utt_id, speakers, len(sources))
        if len(sexes) != len(sources) or not set(sexes) <= set(SEXES):
            raise SpikeSepError(
                f"{directory / 'utt2sexes'}:{line}: {len(sources)} of {' '.join(SEXES)} are needed; correct the line"
            )
        paths = [_audio_path(f"{directory / 'wav.scp'}:{line}", wav)]
        paths += [_audio_path(f"{f}:{line}", column[utt_id][1]) for f, column in zip(sources, columns, strict=True)]
        added = _audio_path(f"{noise_path}:{line}", noise[utt_id][1]) if noise else None
        mixtures.append(Mixture(utt_id, paths[0], tuple(paths[1:]), speakers, sexes, added))
    _check_spk2utt(directory / "spk2utt", {utt_id: speaker for utt_id, (_, speaker) in utt2spk.items()})
    return mixtures


def validate_data_dir(directory: str | Path) -> list[Mixture]:
    """Check a data directory, its audio files' presence too, and return what it lists.

    A sound one has every list; each list is sorted, without duplicates, with the ids of `wav.scp`; every line has its
    fields; ids begin with the speakers they belong to; `spk2utt` says what `utt2spk` says; every audio file is there.

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


def _lists(directory: Path, mixtures: list[Mixture]) -> dict[str, list[str]]:
    """The lines of every file, ids checked."""
    if not mixtures:
        raise SpikeSepError(f"{directory}: there are no mixtures to list; ask for at least one")
    n_speakers = len(mixtures[0].speakers)
    by_speaker: dict[str, list[str]] = {}
    for mixture in mixtures:
        where = f"{directory}: mixture {mixture.utt_id}"
        if {len(mixture.speakers), len(mixture.sources), len(mixture.sexes)} != {n_speakers}:
            raise SpikeSepError(f"{where}: not {n_speakers} speakers, sources and sexes; give each mixture as many")
        _check_speakers(where, mixture.utt_id, mixture.speakers, n_speakers)
        by_speaker.setdefault("_".join(mixture.speakers), []).append(mixture.utt_id)
    if len({mixture.utt_id for mixture in mixtures}) < len(mixtures):
        raise SpikeSepError(f"{directory}: two mixtures share an id; give each its own")
    lists = {"wav.scp": [f"{m.utt_id} {m.mixture.absolute()}" for m in mixtures]}
    for n in range(n_speakers):
        lists[f"spk{n + 1}.scp"] = [f"{m.utt_id} {m.sources[n].absolute()}" for m in mixtures]
    noisy = [mixture for mixture in mixtures if mixture.noise]
    if len(noisy) == len(mixtures):
        lists["noise.scp"] = [f"{m.utt_id} {m.noise.absolute()}" for m in noisy]
    elif noisy:
        raise SpikeSepError(f"{directory}: mixture {noisy[0].utt_id} has noise and others have none; give all or none")
    lists["utt2spk"] = [f"{m.utt_id} {'_'.join(m.speakers)}" for m in mixtures]
    lists["spk2utt"] = [f"{speaker} {' '.join(ids)}" for speaker, ids in sorted(by_speaker.items())]
    lists["utt2sexes"] = [f"{m.utt_id} {' '.join(m.sexes)}" for m in mixtures]
    return lists


def _read_list(path: Path, like: dict | None = None) -> dict[str, tuple[int, str]]:
    """`id -> (line number, rest of the line)` of a sorted list; `like` is one whose ids it must have, line by line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpikeSepError(f"{path}: missing or unreadable; run spikesep-prepare mixtures again ({error})") from error
    rows: dict[str, tuple[int, str]] = {}
    previous = ""
    expected = list(like) if like is not None else None
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        key, _, rest = line.partition(" ")
        if not key or not rest.strip():
            raise SpikeSepError(f"{where}: an id and a value are needed, with one space between; correct the line")
        if key == previous:
            raise SpikeSepError(f"{where}: {key} stands twice; remove one line")
        if key < previous:
            raise SpikeSepError(f"{where}: {key} comes after {previous}; sort the list with LC_ALL=C sort")
        if expected is not None and (number > len(expected) or expected[number - 1] != key):
            other = expected[number - 1] if number <= len(expected) else "no line"
            raise SpikeSepError(f"{where}: {key} where wav.scp has {other}; give both lists the same ids")
        rows[key] = (number, rest.strip())
        previous = key
    if expected is not None and len(rows) < len(expected):
        missing = expected[len(rows)]
        raise SpikeSepError(f"{path}:{len(rows) + 1}: no line for {missing}; give it and wav.scp the same ids")
    if not rows:
        raise SpikeSepError(f"{path}: lists nothing; run spikesep-prepare mixtures again")
    return rows


def _check_spk2utt(path: Path, speaker_of: dict[str, str]) -> None:
    """Every line lists, sorted, exactly the utterances that `utt2spk` gives to its speaker."""
    listed: dict[str, str] = {}
    for speaker, (line, ids) in _read_list(path).items():
        ids = ids.split()
        if ids != sorted(set(ids)):
            raise SpikeSepError(f"{path}:{line}: utterances are unsorted or stand twice; sort them")
        for utt_id in ids:
            if speaker_of.get(utt_id) != speaker:
                other = speaker_of.get(utt_id, "no speaker")
                raise SpikeSepError(f"{path}:{line}: {utt_id} is {other}'s in utt2spk; make the two agree")
        listed |= dict.fromkeys(ids, speaker)
    forgotten = [utt_id for utt_id in speaker_of if utt_id not in listed]
    if forgotten:
        raise SpikeSepError(
            f"{path}:{len(set(listed.values())) + 1}: no line holds {forgotten[0]}; make it from utt2spk"
        )


def _check_speakers(where: str, utt_id: str, speakers: tuple[str, ...], n_speakers: int) -> None:
    """Ids sort like their speakers, as Kaldi wants, since '-' comes before letters, digits and '_'."""
    joined = "_".join(speakers)
    if len(speakers) != n_speakers or not all(re.fullmatch("[A-Za-z0-9]+", speaker) for speaker in speakers):
        raise SpikeSepError(
            f"{where}: {joined!r} is not {n_speakers} names of letters and digits joined by _; correct it"
        )
    if not re.fullmatch(re.escape(joined) + r"-\S+", utt_id):
        raise SpikeSepError(f"{where}: utterance id {utt_id!r} does not begin with its speaker {joined}-; rename it")


def _audio_path(where: str, value: str) -> Path:
    if value.endswith("|"):
        raise SpikeSepError(f"{where}: holds a command; commands are not run, give a file")
    return Path(value)
