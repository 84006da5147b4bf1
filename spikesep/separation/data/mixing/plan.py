"""Plans of mixtures, which exist before any sample, and versions of a set."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.separation.config import DynamicMixingConfig
from spikesep.separation.data.corpora.mixture_lists import MixtureListRow, recording_key
from spikesep.separation.data.corpora.table import ABSENT, Utterance
from spikesep.separation.data.kaldi import Mixture


@dataclass(frozen=True)
class Version:
    """A version of a set of mixtures.

    Attributes:
        rate: Sample rate in Hz.
        mode: Length mode, for example `min` or `max`.
    """

    rate: int
    mode: str

    @property
    def label(self) -> str:
        """Folder name as in WSJ0-2mix and LibriMix, for example `wav8k/min`."""
        return f"wav{self.rate / 1000:g}k/{self.mode}"


@dataclass(frozen=True)
class Span:
    """Time in which a part of an utterance is heard in a mixture.

    Attributes:
        start: Beginning in seconds.
        end: End in seconds.
        offset: Beginning of the part in its recording, in seconds.
    """

    start: float
    end: float
    offset: float


@dataclass(frozen=True)
class Scene:
    """Room, noise and damage of a simulated mixture, besides its utterances.

    Attributes:
        seconds: Duration of the mixture.
        spans: When each utterance is heard.
        seed: Seed of room, noise and damage; the first number is the recipe's.
        split: `tr`, `cv` or `tt`.
        config: Settings of the simulation.
        data: Data folder, absolute.
    """

    seconds: float
    spans: tuple[Span, ...]
    seed: tuple[int, ...]
    split: str
    config: DynamicMixingConfig
    data: Path


@dataclass(frozen=True)
class PlannedMixture:
    """The plan of one mixture.

    Attributes:
        utt_id: Starts with the speakers, `a_b-`.
        name: Name of its files, without suffix.
        utterances: One utterance per speaker, or several in a conversation.
        gains: Gains of the utterances; their reference depends on the procedure.
        starts: First samples of cut utterances, if the procedure cuts.
        samples: Length in samples, if the plan defines it.
        noise: Recording of noise to add.
        noise_gain: Gain of the noise, as a factor.
        signs: 1 or -1 for each utterance, if the plan defines their polarity.
        absent: Silent sources after those of the speakers.
        scene: Timing and surroundings, if the mixture is simulated.
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
    absent: int = 0
    scene: Scene | None = None

    @property
    def voices(self) -> tuple[tuple[str, str], ...]:
        """Speaker and sex of each source; `ABSENT` and `u` for a silent one."""
        present = dict.fromkeys((row.speaker, row.sex) for row in self.utterances)
        return (*present, *[(ABSENT, "u")] * self.absent)

    @classmethod
    def named(
        cls,
        name: str,
        utterances: Sequence[Utterance],
        gains: Sequence[float],
        *,
        noise: Path | None = None,
        noise_gain: float = 0.0,
    ) -> "PlannedMixture":
        """Create a plan whose id consists of the speakers and the name."""
        speakers = "_".join(row.speaker for row in utterances)
        return cls(
            f"{speakers}-{name}",
            name,
            tuple(utterances),
            tuple(gains),
            noise=noise,
            noise_gain=noise_gain,
        )


def planned_files(planned: PlannedMixture, folder: Path, signals: Sequence[str]) -> Mixture:
    """Return the files of a planned mixture, `folder/<signal>/<name>.wav`."""
    n = len(planned.voices)
    mixture, *files = (folder / signal / f"{planned.name}.wav" for signal in signals)
    speakers, sexes = zip(*planned.voices, strict=True)
    noise = files[n] if len(files) > n else None
    return Mixture(planned.utt_id, mixture, tuple(files[:n]), speakers, sexes, noise)


def hash_plan(plan: Sequence[PlannedMixture]) -> str:
    """Return 16 hexadecimal digits that identify a plan.

    The samples of the recordings and their folders are not part of it.
    """
    digest = hashlib.sha256()
    for planned in plan:
        rows = [(row.utt_id, f"{row.duration:.6f}") for row in planned.utterances]
        content = (
            planned.name,
            rows,
            planned.gains,
            planned.starts,
            planned.samples,
            planned.noise and planned.noise.name,
            planned.noise_gain,
        )
        if planned.signs:
            content += (planned.signs,)
        if scene := planned.scene:
            content += (scene.seconds, scene.spans, scene.seed, scene.split, scene.config)
        digest.update(repr(content).encode())
    return digest.hexdigest()[:16]


def plan_from_list(
    rows: Sequence[MixtureListRow], table: Sequence[Utterance], noise: Path | None = None
) -> list[PlannedMixture]:
    """Plan the mixtures of a mixture list, in its order.

    Args:
        rows: Rows of the list.
        table: Table with every recording that the list names.
        noise: Folder of the noise that the list names; None leaves the noise out.

    Raises:
        SpikeSepError: If the table lacks a recording, or the noise of a row is missing; names the
            `file:line`.
    """
    known = {recording_key(row.path): row for row in table}
    plan = []
    for row in rows:
        missing = [
            name for name, key in zip(row.recordings, row.keys, strict=True) if key not in known
        ]
        if missing:
            raise SpikeSepError(
                f"{row.where}: {missing[0]} is not in the table of utterances; "
                "run stage 0 with these lists"
            )
        utterances = [known[key] for key in row.keys]
        if noise is None:
            plan.append(PlannedMixture.named(row.name, utterances, row.gains))
            continue
        added = noise / row.noise if row.noise else None
        if added is None or not added.is_file():
            raise SpikeSepError(
                f"{row.where}: no noise {added or 'named'}; give the folder of WHAM's noise"
            )
        plan.append(
            PlannedMixture.named(
                row.name, utterances, row.gains, noise=added, noise_gain=row.noise_gain
            )
        )
    return plan
