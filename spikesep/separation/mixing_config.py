"""Settings of mixtures, and of the rooms, noise, damage and conversations in them."""

import re
from dataclasses import dataclass, field
from typing import Literal

from spikesep.checks import check
from spikesep.errors import SpikeSepError

NoiseKind = Literal["recorded", "coloured", "speech_shaped", "babble"]


def check_probabilities(section: str, settings: object, *names: str) -> None:
    """Check that fields of a settings record are probabilities.

    Raises:
        SpikeSepError: If one is not within 0 and 1; names `--section.field value`.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise SpikeSepError(f"--{section}.{name} {value}: must be from 0 to 1")


def check_range(option: str, bounds: tuple[float, float]) -> None:
    """Check that a range is given with its lower end first.

    Raises:
        SpikeSepError: If it is not.
    """
    if not bounds[0] <= bounds[1]:
        raise SpikeSepError(f"--{option} {list(bounds)}: give the lower end first")


@dataclass
class RoomsConfig:
    """Simulated rooms, in which each voice of a mixture has a position of its own.

    Attributes:
        probability: share of the training mixtures that are in a room.
        rt60: range of the reverberation time, s; uniform.
        early_ms: reverberation that belongs to the target, ms after the direct sound.
        n_rooms: rooms to simulate; kept in the data folder.
    """

    probability: float = 0.0
    rt60: tuple[float, float] = (0.15, 0.7)
    early_ms: float = 50.0
    n_rooms: int = 200

    def __post_init__(self):
        name = "mixing.dynamic.rooms"
        check_probabilities(name, self, "probability")
        check(name, self, early_ms="not negative", n_rooms="at least 1")
        check_range(f"{name}.rt60", self.rt60)
        if self.rt60[0] < 0.1 or self.rt60[1] > 2:
            raise SpikeSepError(f"--{name}.rt60 {list(self.rt60)}: give times from 0.1 to 2 s")


@dataclass
class NoiseConfig:
    """Noise of varied recordings and of generators.

    Attributes:
        probability: share of the training mixtures that have noise.
        recordings: noise recordings, each `layout:root`, where the layout is `folder` (all audio
            files below the root), `wham`, `musan` (its noise only) or `demand`. A part of them is
            held out for the closed and open conditions.
        kinds: kinds of noise: `recorded`, `coloured`, `speech_shaped` and `babble`. Without
            recordings, `recorded` is left out.
        snr_db: range of the level of the voices over that of the noise, dB; uniform.
    """

    probability: float = 0.0
    recordings: list[str] = field(default_factory=list)
    kinds: list[NoiseKind] = field(
        default_factory=lambda: ["recorded", "coloured", "speech_shaped", "babble"]
    )
    snr_db: tuple[float, float] = (-5.0, 20.0)

    def __post_init__(self):
        name = "mixing.dynamic.noise"
        check_probabilities(name, self, "probability")
        check_range(f"{name}.snr_db", self.snr_db)
        if not self.kinds or (self.kinds == ["recorded"] and not self.recordings):
            raise SpikeSepError(
                f"--{name}.kinds {self.kinds}: no kind is left; give --{name}.recordings or "
                "another kind"
            )


@dataclass
class DamageConfig:
    """Damage by the recording chain, each kind with its share of the training mixtures.

    Attributes:
        band: probability of the telephone band, 300-3400 Hz, of voices and mixture.
        offset: probability of a DC offset.
        clipping: probability of clipping.
        codec: probability of a lossy codec: mu-law, GSM, MP3 or Opus.
    """

    band: float = 0.0
    offset: float = 0.0
    clipping: float = 0.0
    codec: float = 0.0

    def __post_init__(self):
        check_probabilities("mixing.dynamic.damage", self, "band", "offset", "clipping", "codec")


@dataclass
class ConversationConfig:
    """Timing of simulated conversations; durations are log-normal.

    Attributes:
        probability: share of the training mixtures that are parts of a conversation, in which any
            number of the voices may be silent.
        turn_seconds: median duration of an utterance, s.
        pause_seconds: median pause between utterances of one speaker, s.
        gap_seconds: median gap at a change of speakers that do not overlap, s.
        overlap_seconds: median overlap at a change of speakers that overlap, s.
        change: probability that another speaker takes the next turn.
        overlap: probability that a change of speakers overlaps.
        backchannels: short utterances during those of others, per minute.
    """

    probability: float = 0.0
    turn_seconds: float = 1.8
    pause_seconds: float = 0.4
    gap_seconds: float = 0.3
    overlap_seconds: float = 0.9
    change: float = 0.6
    overlap: float = 0.4
    backchannels: float = 10.0

    def __post_init__(self):
        name = "mixing.dynamic.conversation"
        check_probabilities(name, self, "probability", "change", "overlap")
        medians = ("turn_seconds", "pause_seconds", "gap_seconds", "overlap_seconds")
        check(name, self, backchannels="not negative", **dict.fromkeys(medians, "positive"))


@dataclass
class DynamicMixingConfig:
    """Dynamic mixing: changes to the training mixtures in each epoch.

    Attributes:
        examples: mixtures per epoch, mixed on the fly from the training utterances; 0 reads the
            mixtures on disk.
        speeds: speed factors, one of which is drawn for each utterance mixed on the fly, such as
            [0.9, 1.0, 1.1].
        speaker_weighting: exponent of a speaker's amount of speech in the probability of drawing
            the speaker when mixing on the fly: 0 draws all speakers equally often, 1 all seconds
            of speech. Women and men are drawn equally often.
        corpus_weighting: exponent of a corpus's total in the probability of drawing from it when
            mixing on the fly: 1 draws from corpora in proportion to their speakers, 0 from all
            equally often.
        voices: probabilities of mixtures of one voice, two voices and so on, mixed on the fly or
            by the procedures `simulated` and `conversation`; further sources are silent. Empty for
            as many voices as sources.
        remix: re-pair the sources within each batch at new levels.
        channel: random recording channel of each source: `polarity` inverts it at random,
            `equalizer` filters it and moves its band edges, `floor` adds noise to the mixture. The
            last two need `examples`. Without a channel, networks learn to separate recordings
            rather than voices; against polarity, `mixing.polarity: aligned` is more thorough.
        rooms: rooms of the mixtures.
        noise: noise of the mixtures.
        damage: damage by the recording chain.
        conversation: mixtures that are parts of conversations.
    """

    examples: int = 0
    speeds: list[float] = field(default_factory=lambda: [1.0])
    speaker_weighting: float = 0.0
    corpus_weighting: float = 1.0
    voices: list[float] = field(default_factory=list)
    remix: bool = True
    channel: list[Literal["polarity", "equalizer", "floor"]] = field(
        default_factory=lambda: ["polarity"]
    )
    rooms: RoomsConfig = field(default_factory=RoomsConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    damage: DamageConfig = field(default_factory=DamageConfig)
    conversation: ConversationConfig = field(default_factory=ConversationConfig)

    def __post_init__(self):
        name = "mixing.dynamic"
        weightings = dict.fromkeys(("speaker_weighting", "corpus_weighting"), "not negative")
        check(name, self, examples="not negative", **weightings)
        if any(share < 0 for share in self.voices) or (self.voices and not sum(self.voices)):
            raise SpikeSepError(f"--{name}.voices {self.voices}: give shares such as [0.2,0.5,0.3]")
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise SpikeSepError(f"--{name}.speeds {self.speeds}: give factors from 0.5 to 2")
        if set(self.channel) - {"polarity"} and not self.examples:
            raise SpikeSepError(
                f"--{name}.channel {self.channel}: mixtures on disk support polarity alone; set "
                f"--{name}.examples too"
            )
        if self.speeds != [1.0] and not self.examples:
            raise SpikeSepError(
                f"--{name}.speeds {self.speeds}: mixtures on disk have one speed; set "
                f"--{name}.examples too"
            )

    @property
    def simulated(self) -> list[str]:
        """Names of the settings that simulate real recordings, of those that are in use."""
        damage = self.damage
        in_use = {
            "voices": self.voices,
            "rooms": self.rooms.probability,
            "noise": self.noise.probability,
            "damage": damage.band + damage.offset + damage.clipping + damage.codec,
            "conversation": self.conversation.probability,
        }
        return [name for name, value in in_use.items() if value]


@dataclass
class MixingConfig:
    """Mixtures of the recordings.

    Attributes:
        procedure: `balanced` (two voices of any corpus, cut to one length, speakers and sexes
            balanced), `wsj0mix` (WSJ0-2mix, sample for sample), `librimix` (LibriMix), `simulated`
            (voices in rooms, with noise and damage), or `conversation` (the same in turns).
        n_speakers: speakers per mixture.
        rates: sample rates of the files to write, such as `8k` or `16k`; training uses the first.
        modes: `min` ends a mixture with its shortest source, `max` with its longest. The procedures
            `simulated` and `conversation` have the conditions `clean`, `noise`, `room`, `both`,
            `damaged` (with both) and `varied` (as in training) instead. Empty for the first that
            the procedure supports. Training uses the first.
        max_seconds: maximum duration of a `balanced` or `simulated` mixture, s; longer utterances
            are cut at a random position. Duration of a `conversation`.
        snr_db: range of the level difference between the voices, dB of active speech level, drawn
            uniformly (`balanced` and dynamic mixing).
        polarity: polarity of the voices (`balanced` and dynamic mixing): `as_recorded`; `aligned`,
            the same for all, as with one microphone, so that networks cannot separate voices by
            it; `opposite`, with every other voice inverted.
        n_train: training mixtures (`tr`), unless published lists are used.
        n_closed: mixtures of the closed condition (`cv`), likewise.
        n_open: mixtures of the open condition (`tt`), likewise.
        dynamic: dynamic mixing.
    """

    procedure: Literal["balanced", "wsj0mix", "librimix", "simulated", "conversation"] = "balanced"
    n_speakers: int = 2
    rates: list[str] = field(default_factory=lambda: ["8k"])
    modes: list[str] = field(default_factory=list)
    max_seconds: float = 4.0
    snr_db: tuple[float, float] = (0.0, 5.0)
    polarity: Literal["as_recorded", "aligned", "opposite"] = "as_recorded"
    n_train: int = 3000
    n_closed: int = 150
    n_open: int = 150
    dynamic: DynamicMixingConfig = field(default_factory=DynamicMixingConfig)

    def __post_init__(self):
        sizes = dict.fromkeys(("n_train", "n_closed", "n_open"), "not negative")
        check("mixing", self, n_speakers="at least 1", **sizes)
        self.rates_hz  # noqa: B018
        dynamic = self.dynamic
        if self.polarity != "as_recorded" and dynamic.examples and "polarity" in dynamic.channel:
            raise SpikeSepError(
                f"--mixing.polarity {self.polarity}: inverting sources at random undoes it; leave "
                "polarity out of --mixing.dynamic.channel"
            )
        simulates = dynamic.examples or self.procedure in ("simulated", "conversation")
        if dynamic.simulated and not simulates:
            raise SpikeSepError(
                f"--mixing.dynamic.{dynamic.simulated[0]}: mixtures of --mixing.procedure "
                f"{self.procedure} on disk stay as they are; set --mixing.dynamic.examples too"
            )

    @property
    def rates_hz(self) -> list[int]:
        """Sample rates in Hz.

        Raises:
            SpikeSepError: a rate is malformed or repeated.
        """
        wrong = [text for text in self.rates if not re.fullmatch(r"\d+(\.\d+)?k", text)]
        if wrong or not self.rates or len(set(self.rates)) < len(self.rates):
            raise SpikeSepError(f"--mixing.rates {self.rates}: give different ones like [8k,16k]")
        return [round(float(text[:-1]) * 1000) for text in self.rates]
