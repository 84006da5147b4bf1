"""What a mixture will be, before a sample of it is there; and in which versions (rate and mode) a set is written."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.separation.data.corpora.mixture_lists import ListRow, recording_key
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.kaldi import Mixture


@dataclass(frozen=True)
class Version:
    """A rate in Hz and a mode of length, in which all mixtures of a set are written."""

    rate: int
    mode: str

    @property
    def label(self) -> str:
        """`wav8k/min`, as in the trees of WSJ0-2mix and LibriMix."""
        return f"wav{self.rate / 1000:g}k/{self.mode}"


@dataclass(frozen=True)
class PlannedMixture:
    """What one mixture will be.

    Attributes:
        utt_id: begins with the speakers, `a_b-`.
        name: of its files, without suffix.
        utterances: one a speaker.
        gains: of the utterances; what they are relative to is the procedure's.
        starts: samples at which the utterances are cut, where they are.
        samples: its length, where the plan knows it.
        noise: a recording to add, and its gain.
        signs: 1 or -1 of each utterance, where the plan sets their polarity.
    """

    utt_id: str
    name: str
    utterances: tuple[Utterance, ...]
    gains: tuple[float, ...]
    starts: tuple[int, ...] = ()
    samples: int = 0
    noise: Path | None = None
    noise_gain: float = 0.0
    signs: tuple[int, ...] = ()

    @classmethod
    def named(
        cls, name: str, utterances: Sequence[Utterance], gains: Sequence[float], **more
    ) -> "PlannedMixture":
        """With the id that its name and its speakers make."""
        speakers = "_".join(row.speaker for row in utterances)
        return cls(f"{speakers}-{name}", name, tuple(utterances), tuple(gains), **more)


def planned_files(planned: PlannedMixture, folder: Path, parts: Sequence[str]) -> Mixture:
    """Where a planned mixture is written: `folder/<part>/<name>.wav`."""
    n = len(planned.utterances)
    mixture, *files = (folder / part / f"{planned.name}.wav" for part in parts)
    speakers, sexes = zip(*((row.speaker, row.sex) for row in planned.utterances), strict=True)
    noise = files[n] if len(files) > n else None
    return Mixture(planned.utt_id, mixture, tuple(files[:n]), speakers, sexes, noise)


def hash_of_plan(plan: Sequence[PlannedMixture]) -> str:
    """Of everything that shapes the files but the recordings' samples and where they lie."""
    digest = hashlib.sha256()
    for planned in plan:
        rows = [(row.utt_id, f"{row.duration:.6f}") for row in planned.utterances]
        noise = planned.noise and planned.noise.name
        shape = (
            planned.name,
            rows,
            planned.gains,
            planned.starts,
            planned.samples,
            noise,
            planned.noise_gain,
        )
        digest.update(repr(shape + ((planned.signs,) if planned.signs else ())).encode())
    return digest.hexdigest()[:16]


def plan_of_rows(
    rows: Sequence[ListRow], table: Sequence[Utterance], noise: Path | None = None
) -> list[PlannedMixture]:
    """The mixtures that a list names, of recordings in the table, in the list's order.

    Args:
        rows: of a list.
        table: with every recording that the list names.
        noise: folder of the noise that the list names; None leaves it out.

    Raises:
        SpikeSepError: `file:line` of a row whose recording the table lacks, or whose noise is not there.
    """
    known = {recording_key(row.path): row for row in table}
    plan = []
    for row in rows:
        absent = [
            name for name, key in zip(row.recordings, row.keys, strict=True) if key not in known
        ]
        if absent:
            raise SpikeSepError(
                f"{row.where}: {absent[0]} is not in the table of utterances; run stage 0 with these lists"
            )
        added = noise / row.noise if noise and row.noise else None
        if noise and not (added and added.is_file()):
            raise SpikeSepError(
                f"{row.where}: no noise {added or 'named'}; give the folder of WHAM's noise"
            )
        utterances = [known[key] for key in row.keys]
        more = {"noise": added, "noise_gain": row.noise_gain} if added else {}
        plan.append(PlannedMixture.named(row.name, utterances, row.gains, **more))
    return plan
