"""Settings of the speech task: plain records, read without importing torch. `RecipeConfig` is one `conf/*.yaml`."""

import re
from dataclasses import dataclass, field
from typing import Literal

from spikesep.checks import brief, check, check_whole
from spikesep.errors import SpikeSepError
from spikesep.training.config import ConversionConfig, LaunchConfig, PretrainConfig

MOST_DILATIONS = 1_000
LARGEST_DILATION = 2**20
MOST_CONTEXT = 2**24
"""Samples on either side that dilated convolutions may reach: half an hour at 8 kHz."""


@dataclass
class CorpusConfig:
    """Which recordings to use.

    Attributes:
        name: `debian` (real voices from Debian packages), `folder` (one folder a speaker), `librispeech`, `wsj0`, or
            `espeak` (synthetic voices).
        root: the corpus folder, for `folder`, `librispeech` and `wsj0`.
        lists: folder of the published mixture lists (WSJ0-2mix) or metadata (LibriMix), which then say which
            recordings are used and in which split; empty has lists drawn.
        noise: folder of WHAM's noise, for LibriMix with noise; empty for none.
        also: further corpora, `name` or `name:root`, whose voices are added; all are split together.
        as_published: take all recordings of at least `min_seconds`, and the splits that the corpus itself has, where
            it has all three; otherwise what is no speech is left out, and closed means voices heard in training.
        fallback: corpus to take, with a notice, where the packages of `debian` cannot be fetched; empty for none.
        min_seconds: shorter recordings are left out.
        max_seconds_per_speaker: most speech taken of one voice, shortest files last; 0 for all.
        seen_speakers: voices of training and the closed condition; empty takes the corpus's own choice.
        unseen_speakers: voices of the open condition; empty takes the corpus's own choice.
        closed_share: share of each seen voice's utterances kept for the closed condition.
    """

    name: Literal["debian", "folder", "librispeech", "wsj0", "espeak"] = "debian"
    root: str = ""
    lists: str = ""
    noise: str = ""
    also: list[str] = field(default_factory=list)
    as_published: bool = False
    fallback: str = "espeak"
    min_seconds: float = 1.5
    max_seconds_per_speaker: float = 0.0
    seen_speakers: list[str] = field(default_factory=list)
    unseen_speakers: list[str] = field(default_factory=list)
    closed_share: float = 0.1


@dataclass
class MixingConfig:
    """How mixtures are made.

    Attributes:
        procedure: `balanced` (two voices of any corpus, cut to one length, speakers and sexes balanced), `wsj0mix`
            (that of WSJ0-2mix, to the sample), or `librimix` (that of LibriMix).
        n_speakers: voices of a mixture.
        rates: of the written files, like `8k` or `16k`; the first is trained on.
        modes: of length: `min` ends with the shortest voice, `max` with the longest; empty takes the first that the
            procedure has. The first is trained on.
        max_seconds: longest mixture of `balanced`; longer utterances are cut at a random place.
        snr_db: one voice is this much louder, uniform between the two, on active speech level (`balanced`, and mixing
            on the fly).
        polarity: of the voices of `balanced`: `as_recorded`; `aligned`, as before one microphone; `opposite`, one
            of the two turned over, which a network that separates voices does not notice.
        n_train, n_closed, n_open: mixtures in `tr`, `cv` and `tt`, where no lists say so.
    """

    procedure: Literal["balanced", "wsj0mix", "librimix"] = "balanced"
    n_speakers: int = 2
    rates: list[str] = field(default_factory=lambda: ["8k"])
    modes: list[str] = field(default_factory=list)
    max_seconds: float = 4.0
    snr_db: tuple[float, float] = (0.0, 5.0)
    polarity: Literal["as_recorded", "aligned", "opposite"] = "as_recorded"
    n_train: int = 3000
    n_closed: int = 150
    n_open: int = 150

    def __post_init__(self):
        check("mixing", self, n_speakers="at least 1")
        self.rates_hz  # noqa: B018

    @property
    def rates_hz(self) -> list[int]:
        """The rates in Hz."""
        wrong = [text for text in self.rates if not re.fullmatch(r"\d+(\.\d+)?k", text)]
        if wrong or not self.rates or len(set(self.rates)) < len(self.rates):
            raise SpikeSepError(f"--mixing.rates {self.rates}: give different ones like [8k,16k]")
        return [round(float(text[:-1]) * 1000) for text in self.rates]


@dataclass
class SeparatorConfig:
    """The separator's sizes (paper, section 6.3.2).

    Attributes:
        n_speakers: voices to separate.
        sample_rate: Hz.
        n_filters: encoder filters, N.
        kernel_size: encoder window in samples, L; the stride is L/2.
        n_channels: channels of the spiking layers.
        conv_kernel_size: taps of the dilated convolutions.
        dilations: one dilated convolution each, in order.
        identity: a path around each dilated convolution: `none`, as in the paper; `sum`, what follows receives the
            spikes of all layers before; `folded`, the input is added before the ReLU and becomes part of the kernel, so
            that it costs no synaptic operation, but each layer fires anew what the one before has said.
    """

    n_speakers: int = 2
    sample_rate: int = 8000
    n_filters: int = 512
    kernel_size: int = 20
    n_channels: int = 512
    conv_kernel_size: int = 3
    dilations: list[int] = field(default_factory=lambda: [2**k for k in range(10)])
    identity: Literal["none", "sum", "folded"] = "none"

    def __post_init__(self):
        check_whole(
            "model",
            self,
            n_speakers=(1, 1_000),
            sample_rate=(1_000, 768_000),
            n_filters=(1, 2**16),
            kernel_size=(1, 2**16),
            n_channels=(1, 2**16),
            conv_kernel_size=(1, 2**16),
        )
        check("model", self, kernel_size="even and at least 2", conv_kernel_size="odd")
        if self.identity not in ("none", "sum", "folded"):
            raise SpikeSepError(
                f"--model.identity {brief(self.identity)}: must be none, sum or folded"
            )
        self._check_dilations()

    def _check_dilations(self) -> None:
        n, name = len(self.dilations), f"--model.dilations {brief(self.dilations)}"
        if n > MOST_DILATIONS:
            raise SpikeSepError(f"{name}: there are {n:,}, must be {MOST_DILATIONS:,} at most")
        if any(type(d) is not int or not 1 <= d <= LARGEST_DILATION for d in self.dilations):
            raise SpikeSepError(
                f"{name}: each must be a whole number from 1 to {LARGEST_DILATION:,}"
            )
        context = sum(self.dilations) * (self.conv_kernel_size // 2) * (self.kernel_size // 2)
        if context > MOST_CONTEXT:
            raise SpikeSepError(
                f"{name}: an estimate would depend on {context:,} samples on either side, "
                f"must be {MOST_CONTEXT:,} at most"
            )


@dataclass
class SpeechPretrainConfig(PretrainConfig):
    """How the analog separator is trained.

    Attributes:
        segment_seconds: length of the random crop taken of each mixture in each epoch.
        remix: re-pair the sources of a batch at new levels in each step, so that few recordings give many mixtures.
        on_the_fly: mix this many examples an epoch from the training utterances while training, instead of reading
            mixtures; 0 reads mixtures.
        speeds: at which utterances are played when mixed on the fly, drawn anew each time, like [0.9, 1.0, 1.1].
        by_amount: when mixing on the fly, speakers are drawn in proportion to the seconds of speech there are of each,
            to this power: 0 draws all alike, 1 makes every second of speech as likely as any other.
        channel: parts of a random recording channel for each source: `polarity` turns it over or not,
            `equalizer` filters it and moves its band edges, `floor` adds noise to the mixture. The last two need
            `on_the_fly`. Without them a network learns to tell recordings apart instead of voices.
    """

    segment_seconds: float = 1.0
    remix: bool = True
    on_the_fly: int = 0
    speeds: list[float] = field(default_factory=lambda: [1.0])
    by_amount: float = 0.0
    channel: list[Literal["polarity", "equalizer", "floor"]] = field(
        default_factory=lambda: ["polarity"]
    )

    def __post_init__(self):
        super().__post_init__()
        check(
            "ann",
            self,
            segment_seconds="positive",
            on_the_fly="not negative",
            by_amount="not negative",
        )
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise SpikeSepError(f"--ann.speeds {self.speeds}: give factors from 0.5 to 2")
        if set(self.channel) - {"polarity"} and not self.on_the_fly:
            raise SpikeSepError(
                f"--ann.channel {self.channel}: mixtures on disk take polarity alone; set --ann.on_the_fly too"
            )
        if self.speeds != [1.0] and not self.on_the_fly:
            raise SpikeSepError(
                f"--ann.speeds {self.speeds}: mixtures on disk have one speed; set --ann.on_the_fly too"
            )


@dataclass
class SpeechConversionConfig(ConversionConfig):
    """How the trained separator is converted.

    Attributes:
        segment_seconds: length of the fixed crops that conversion trains on.
        train_segments: most training segments (all where there are fewer), of which calibration takes the first.
        valid_segments: most validation segments.
        targets: what learning goes toward: the `sources` of the mixtures, or the voices that the `ann` makes of the
            mixtures (distillation); the best epoch is the nearest to these, and the metric is always of the sources.
    """

    segment_seconds: float = 1.0
    train_segments: int = 512
    valid_segments: int = 128
    targets: Literal["sources", "ann"] = "sources"

    def __post_init__(self):
        super().__post_init__()
        counts = dict.fromkeys(("train_segments", "valid_segments"), "at least 1")
        check("ptl", self, segment_seconds="positive", **counts)


@dataclass
class ScoringConfig:
    """What is scored.

    Attributes:
        metrics: computed beside SI-SDR, which is always there.
        max_utterances: score only the first of each set; 0 for all.
    """

    metrics: list[Literal["sdr", "pesq", "stoi"]] = field(
        default_factory=lambda: ["sdr", "pesq", "stoi"]
    )
    max_utterances: int = 0


@dataclass
class DemoConfig:
    """The listening page.

    Attributes:
        examples_per_group: mixtures shown of each of closed/open x different/same sex.
    """

    examples_per_group: int = 1


@dataclass
class RecipeConfig:
    """Everything a speech recipe can be told: one section a stage."""

    seed: int = 0
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    model: SeparatorConfig = field(default_factory=SeparatorConfig)
    ann: SpeechPretrainConfig = field(default_factory=SpeechPretrainConfig)
    ptl: SpeechConversionConfig = field(default_factory=SpeechConversionConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
