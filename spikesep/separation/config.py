"""Settings of the speech recipes, importable without torch."""

import re
from dataclasses import dataclass, field
from typing import Literal

from spikesep.checks import brief, check, check_whole
from spikesep.errors import SpikeSepError
from spikesep.training.config import ConversionConfig, LaunchConfig, PretrainConfig

MOST_DILATIONS = 1_000
LARGEST_DILATION = 2**20
MOST_CONTEXT = 2**24
"""Largest one-sided receptive field of the dilated convolutions, samples: half an hour at 8 kHz."""


@dataclass
class CorpusConfig:
    """Recordings of single speakers.

    Attributes:
        name: `debian` (real voices from Debian packages), `folder` (one folder per speaker),
            `librispeech`, `wsj0`, or `espeak` (synthetic voices).
        root: corpus folder, for `folder`, `librispeech` and `wsj0`.
        lists: folder of the published mixture lists (WSJ0-2mix) or metadata (LibriMix), which then
            determine the recordings and splits; empty to draw them at random.
        noise: folder of the WHAM noise for LibriMix with noise; empty for none.
        also: additional corpora, each `name` or `name:root`; all are split together.
        as_published: use all recordings of at least `min_seconds` and, if the corpus defines all
            three, its own splits. Otherwise recordings without speech are excluded, and the closed
            condition has the speakers of training.
        fallback: corpus to use, with a notice, if the packages of `debian` cannot be fetched;
            empty for none.
        min_seconds: minimum duration of a recording, s.
        seen_speakers: speakers of training and of the closed condition; empty for the corpus's
            defaults.
        unseen_speakers: speakers of the open condition; empty for the corpus's defaults.
    """

    name: Literal["debian", "folder", "librispeech", "wsj0", "espeak"] = "debian"
    root: str = ""
    lists: str = ""
    noise: str = ""
    also: list[str] = field(default_factory=list)
    as_published: bool = False
    fallback: str = "espeak"
    min_seconds: float = 1.5
    seen_speakers: list[str] = field(default_factory=list)
    unseen_speakers: list[str] = field(default_factory=list)


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
            of speech.
        remix: re-pair the sources within each batch at new levels.
        channel: random recording channel of each source: `polarity` inverts it at random,
            `equalizer` filters it and moves its band edges, `floor` adds noise to the mixture. The
            last two need `examples`. Without a channel, networks learn to separate recordings
            rather than voices.
    """

    examples: int = 0
    speeds: list[float] = field(default_factory=lambda: [1.0])
    speaker_weighting: float = 0.0
    remix: bool = True
    channel: list[Literal["polarity", "equalizer", "floor"]] = field(
        default_factory=lambda: ["polarity"]
    )

    def __post_init__(self):
        name = "mixing.dynamic"
        check(name, self, examples="not negative", speaker_weighting="not negative")
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


@dataclass
class MixingConfig:
    """Mixtures of the recordings.

    Attributes:
        procedure: `balanced` (two voices of any corpus, cut to one length, speakers and sexes
            balanced), `wsj0mix` (WSJ0-2mix, sample for sample), or `librimix` (LibriMix).
        n_speakers: speakers per mixture.
        rates: sample rates of the files to write, such as `8k` or `16k`; training uses the first.
        modes: `min` ends a mixture with its shortest source, `max` with its longest; empty for the
            first that the procedure supports. Training uses the first.
        max_seconds: maximum duration of a `balanced` mixture, s; longer utterances are cut at a
            random position.
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
    dynamic: DynamicMixingConfig = field(default_factory=DynamicMixingConfig)

    def __post_init__(self):
        check("mixing", self, n_speakers="at least 1")
        self.rates_hz  # noqa: B018
        dynamic = self.dynamic
        if self.polarity != "as_recorded" and dynamic.examples and "polarity" in dynamic.channel:
            raise SpikeSepError(
                f"--mixing.polarity {self.polarity}: inverting sources at random undoes it; leave "
                "polarity out of --mixing.dynamic.channel"
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


@dataclass
class SeparatorConfig:
    """Architecture of the separator (paper, section 6.3.2).

    Attributes:
        n_speakers: voices to separate.
        sample_rate: sample rate of the mixtures, Hz.
        n_filters: encoder filters, N.
        kernel_size: encoder window L, samples; the stride is L/2.
        n_channels: channels of the spiking layers.
        conv_kernel_size: kernel size of the dilated convolutions.
        dilations: dilations of the convolutions, in order.
        identity: identity path around each dilated convolution: `none`, as in the paper; `sum`
            passes the spikes of all earlier layers on to the next; `folded` adds the input before
            the ReLU, folded into the kernel, at no cost in synaptic operations but with the
            spikes fired anew in each layer.
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
    """Training of the analog separator.

    Attributes:
        segment_seconds: duration of the random crop taken of each mixture in each epoch, s.
    """

    segment_seconds: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check("train", self, segment_seconds="positive")


@dataclass
class SpeechConversionConfig(ConversionConfig):
    """Conversion of the trained separator.

    Attributes:
        segment_seconds: duration of the fixed crops used for conversion, s.
        train_segments: maximum number of training segments; calibration uses the first.
        valid_segments: maximum number of validation segments.
        targets: training targets: the `sources` of the mixtures, or the outputs of the `ann`
            (distillation). The best epoch is selected by the same targets; the metric always
            refers to the sources.
    """

    segment_seconds: float = 1.0
    train_segments: int = 512
    valid_segments: int = 128
    targets: Literal["sources", "ann"] = "sources"

    def __post_init__(self):
        super().__post_init__()
        counts = dict.fromkeys(("train_segments", "valid_segments"), "at least 1")
        check("convert", self, segment_seconds="positive", **counts)


@dataclass
class ScoringConfig:
    """Scoring.

    Attributes:
        metrics: metrics to compute in addition to SI-SDR.
        max_utterances: score only the first mixtures of each set; 0 for all.
        energy_table: energies per arithmetic operation of the estimates: `45nm` (Horowitz 2014) or
            `7nm` (Jouppi et al. 2021).
    """

    metrics: list[Literal["sdr", "pesq", "stoi"]] = field(
        default_factory=lambda: ["sdr", "pesq", "stoi"]
    )
    max_utterances: int = 0
    energy_table: Literal["45nm", "7nm"] = "45nm"


@dataclass
class DemoConfig:
    """Listening page.

    Attributes:
        examples_per_group: mixtures per condition (closed, open) and pair of sexes (different,
            same).
    """

    examples_per_group: int = 1


@dataclass
class RecipeConfig:
    """All settings of a speech recipe; a `conf/*.yaml` file.

    Attributes:
        seed: random seed of all stages.
        corpus: recordings of single speakers.
        mixing: mixtures of the recordings.
        model: architecture of the separator.
        train: training of the analog separator.
        convert: conversion of the trained separator.
        scoring: scoring.
        demo: listening page.
        launch: processes, accelerators and machines.
    """

    seed: int = 0
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    model: SeparatorConfig = field(default_factory=SeparatorConfig)
    train: SpeechPretrainConfig = field(default_factory=SpeechPretrainConfig)
    convert: SpeechConversionConfig = field(default_factory=SpeechConversionConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
