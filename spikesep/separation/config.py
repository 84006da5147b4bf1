"""Settings of the speech recipes, importable without torch."""

from dataclasses import dataclass, field
from typing import Literal

from spikesep.checks import brief, check, check_whole
from spikesep.errors import SpikeSepError
from spikesep.separation.mixing_config import DynamicMixingConfig as DynamicMixingConfig
from spikesep.separation.mixing_config import MixingConfig
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
            `commonvoice` (a language, or a folder of several), `librispeech`, `wsj0`, or `espeak`
            (synthetic voices).
        root: corpus folder, for `folder`, `commonvoice`, `librispeech` and `wsj0`.
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
        max_per_speaker: maximum number of recordings per speaker, drawn at random; 0 for all.
        seen_speakers: speakers of training and of the closed condition; empty for the corpus's
            defaults.
        unseen_speakers: speakers of the open condition; empty for the corpus's defaults.
    """

    name: Literal["debian", "folder", "commonvoice", "librispeech", "wsj0", "espeak"] = "debian"
    root: str = ""
    lists: str = ""
    noise: str = ""
    also: list[str] = field(default_factory=list)
    as_published: bool = False
    fallback: str = "espeak"
    min_seconds: float = 1.5
    max_per_speaker: int = 0
    seen_speakers: list[str] = field(default_factory=list)
    unseen_speakers: list[str] = field(default_factory=list)

    def __post_init__(self):
        check("corpus", self, max_per_speaker="not negative")


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
        causal: pad the dilated convolutions before their input only. An estimate then depends on
            less than one encoder window of later samples.
        block: `dense`, as in the paper: a dilated convolution of all channels; or `separable`,
            which costs less: a 1x1 convolution, a dilated one of each channel alone (depthwise),
            and another 1x1 convolution, all with neurons. `identity` then is a path around the
            block (`sum`), or around each of its convolutions that keeps the number of channels
            (`folded`).
        hidden_channels: channels within a separable block; 0 for `n_channels`.
    """

    n_speakers: int = 2
    sample_rate: int = 8000
    n_filters: int = 512
    kernel_size: int = 20
    n_channels: int = 512
    conv_kernel_size: int = 3
    dilations: list[int] = field(default_factory=lambda: [2**k for k in range(10)])
    identity: Literal["none", "sum", "folded"] = "none"
    causal: bool = False
    block: Literal["dense", "separable"] = "dense"
    hidden_channels: int = 0

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
            hidden_channels=(0, 2**16),
        )
        check("model", self, kernel_size="even and at least 2", conv_kernel_size="odd")
        if self.identity not in ("none", "sum", "folded"):
            raise SpikeSepError(
                f"--model.identity {brief(self.identity)}: must be none, sum or folded"
            )
        if self.block not in ("dense", "separable"):
            raise SpikeSepError(f"--model.block {brief(self.block)}: must be dense or separable")
        if self.hidden_channels and self.block == "dense":
            raise SpikeSepError("--model.hidden_channels: needs --model.block separable")
        self._check_dilations()

    def _check_dilations(self) -> None:
        n, name = len(self.dilations), f"--model.dilations {brief(self.dilations)}"
        if n > MOST_DILATIONS:
            raise SpikeSepError(f"{name}: there are {n:,}, must be {MOST_DILATIONS:,} at most")
        if any(type(d) is not int or not 1 <= d <= LARGEST_DILATION for d in self.dilations):
            raise SpikeSepError(
                f"{name}: each must be a whole number from 1 to {LARGEST_DILATION:,}"
            )
        taps = self.conv_kernel_size - 1 if self.causal else self.conv_kernel_size // 2
        context, sides = sum(self.dilations) * taps * (self.kernel_size // 2), "on either side"
        if context > MOST_CONTEXT:
            raise SpikeSepError(
                f"{name}: an estimate would depend on {context:,} samples "
                f"{'before it' if self.causal else sides}, "
                f"must be {MOST_CONTEXT:,} at most"
            )


@dataclass
class SpeechPretrainConfig(PretrainConfig):
    """Training of the analog separator.

    Attributes:
        segment_seconds: duration of the random crop taken from each mixture in each epoch, s.
        loss: `si_sdr`, as in the paper; or `snr`, the mean of SNR and SI-SDR, which also allows
            sources that are silent in a crop, and keeps the scale of the voices. Conversion uses
            the same.
    """

    segment_seconds: float = 1.0
    loss: Literal["si_sdr", "snr"] = "si_sdr"

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

    def __post_init__(self):
        check("scoring", self, max_utterances="not negative")


@dataclass
class DemoConfig:
    """Listening page.

    Attributes:
        examples_per_group: mixtures per condition (closed, open) and pair of sexes (different,
            same).
    """

    examples_per_group: int = 1

    def __post_init__(self):
        check("demo", self, examples_per_group="not negative")


@dataclass
class TracksConfig:
    """Training of the embedder that tells speakers apart.

    Attributes:
        stretch_seconds: length of the stretches that are compared, s.
        speaker_seconds: largest duration of the clean utterances of a speaker together, s.
        mixtures: training mixtures whose separated voices are used as well.
        mixture_seconds: duration of each of them, s.
        epochs: epochs; in each, every speaker is heard in two stretches.
        batch_speakers: speakers per step.
        learning_rate: peak learning rate.
        n_steps: time steps of the spiking network.
    """

    stretch_seconds: float = 2.0
    speaker_seconds: float = 6.0
    mixtures: int = 100
    mixture_seconds: float = 2.0
    epochs: int = 10
    batch_speakers: int = 64
    learning_rate: float = 3e-3
    n_steps: int = 16

    def __post_init__(self):
        lengths = ("stretch_seconds", "speaker_seconds", "mixture_seconds", "learning_rate")
        check("tracks", self, mixtures="not negative", **dict.fromkeys(lengths, "positive"))
        check("tracks", self, epochs="at least 1")
        check_whole("tracks", self, batch_speakers=(2, 2**16), n_steps=(1, 2**16))


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
        tracks: training of the embedder that tells speakers apart.
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
    tracks: TracksConfig = field(default_factory=TracksConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
