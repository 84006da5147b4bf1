"""Settings of the image recipes, importable without torch."""

import re
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from spikesep.checks import check
from spikesep.errors import SpikeSepError
from spikesep.training.config import ConversionConfig, LaunchConfig, PretrainConfig
from spikesep.training.renamed import migrated_names


@dataclass
class ImageDataConfig:
    """Images.

    Attributes:
        name: data set; `mnist` and `cifar10` are downloaded, `imagenet` is read from `root`.
        root: folder of the data set: for `mnist` and `cifar10` the files that torchvision reads
            (empty to download them); for `imagenet` train/<wnid>/*.JPEG and val/<wnid>/*.JPEG.
        valid_share: fraction of the training set that is used for validation.
        split_seed: seed of the validation split; the same in all experiments.
        train_examples: number of training examples to use; 0 for all.
        valid_examples: number of validation examples to use; 0 for all.
        test_examples: number of test examples to use; 0 for all.
        augment: in pre-training and the first stage of conversion, shift the training images at
            random and, except for digits, mirror them.
        cutout: side of the square that `augment` erases at random in each image of `mnist` or
            `cifar10`, pixels; 0 for none.
    """

    name: Literal["mnist", "cifar10", "imagenet"] = "mnist"
    root: str = ""
    valid_share: float = 0.1
    split_seed: int = 0
    train_examples: int = 0
    valid_examples: int = 0
    test_examples: int = 0
    augment: bool = False
    cutout: int = 0

    def __post_init__(self):
        check(
            "images",
            self,
            valid_share="between 0 and 1",
            train_examples="not negative",
            valid_examples="not negative",
            test_examples="not negative",
            cutout="not negative",
        )
        if self.cutout and (not self.augment or self.name == "imagenet"):
            raise SpikeSepError(
                "--images.cutout: needs --images.augment true, and --images.name mnist or cifar10"
            )


@dataclass
class ImagePretrainConfig(PretrainConfig):
    """Training of the analog network.

    Attributes:
        label_smoothing: share of the target that is spread evenly over all classes.
    """

    label_smoothing: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check("train", self, label_smoothing="between 0 and 1")


@dataclass
class ImageConversionConfig(ConversionConfig):
    """Conversion of the trained network.

    Attributes:
        label_smoothing: as in training.
        train_examples: number of training examples of all stages but the first; 0 for all.
        untrained: start the methods `tandem` and `surrogate` from random weights, as in Fig. 4 of
            the paper.
        weight_bits: bits of the integer weights of the finished network, 2 to 8; 0 for float32,
            as in the paper's image tasks.
    """

    label_smoothing: float = 0.0
    train_examples: int = 0
    untrained: bool = False
    weight_bits: int = 0

    def __post_init__(self):
        super().__post_init__()
        check("convert", self, label_smoothing="between 0 and 1", train_examples="not negative")

    def varied(self, changes: dict[str, Any]) -> "ImageConversionConfig":
        """Return a copy with some settings changed.

        Args:
            changes: values of `convert.NAME` or `convert.SECTION.NAME`.

        Raises:
            SpikeSepError: the settings contradict each other.
        """
        own: dict[str, Any] = {}
        for setting, value in changes.items():
            _, *sections, name = setting.split(".")
            if sections:
                section = own.get(sections[0], getattr(self, sections[0]))
                own[sections[0]] = replace(section, **{name: value})
            else:
                own[name] = value
        return replace(self, **own)


@dataclass
class ExperimentConfig:
    """Runs of the experiment.

    Attributes:
        name: name of the table or figure, and of `results/<name>.json`; empty for other runs.
        task: `classification` (cross entropy, accuracy) or `reconstruction` (mean squared error).
        architectures: names or descriptions of networks; see `spikesep.vision.architectures`.
        n_seeds: number of independent runs, with seed, seed + 1, ...; results are given as mean
            and standard deviation.
        vary: settings of the conversion and their values, e.g. {convert.n_steps: [32, 16]}; one
            setting is varied at a time.
        variants: further conversions, each with several settings changed, by name, e.g.
            {impulse: {convert.encoding: impulse, convert.percentile: 99.9}}.
        train_on: as a control, train each analog network on for as many epochs as its first
            conversion by progressive tandem learning took.
        reduced: how the experiment was reduced compared with the paper's, and why; empty if it
            was not.
    """

    name: str = ""
    task: Literal["classification", "reconstruction"] = "classification"
    architectures: list[str] = field(default_factory=lambda: ["mnist-cnn"])
    n_seeds: int = 1
    vary: dict[str, list[bool | int | float | str]] = field(
        default_factory=lambda: {"convert.n_steps": [16]}
    )
    variants: dict[str, dict[str, bool | int | float | str]] = field(default_factory=dict)
    train_on: bool = False
    reduced: str = ""

    def __post_init__(self):
        check("experiment", self, n_seeds="at least 1")
        if not self.architectures:
            raise SpikeSepError("--experiment.architectures: name at least one")
        self.vary = migrated_names(self.vary, "--experiment.vary")
        if not self.vary:
            raise SpikeSepError("--experiment.vary: give at least one setting")
        for setting, values in self.vary.items():
            if not values:
                raise SpikeSepError(f"--experiment.vary {setting}: give at least one value")
            for value in values:
                _check_change(f"--experiment.vary {setting}", setting, value)
        for name, changes in self.variants.items():
            if not re.fullmatch(r"[\w.-]+", name):
                raise SpikeSepError(
                    f"--experiment.variants {name!r}: names a folder; use letters, digits, - and _"
                )
            for setting, value in changes.items():
                _check_change(f"--experiment.variants {name}: {setting}", setting, value)


def _check_change(option: str, setting: str, value: Any) -> None:
    """Check that a setting of the conversion exists and takes the value."""
    types = _types(ImageConversionConfig, "convert")
    if setting not in types:
        raise SpikeSepError(f"{option}: not a setting of the section convert")
    if not _is_instance(value, types[setting]):
        raise SpikeSepError(f"{option}: {value!r} is not a value of --{setting}")


def _types(config: Any, prefix: str) -> dict[str, Any]:
    """Return the types of all settings in a record and the records within, by dotted name."""
    found: dict[str, Any] = {}
    hints = get_type_hints(config)
    for entry in fields(config):
        name, kind = f"{prefix}.{entry.name}", hints[entry.name]
        is_record = is_dataclass(kind) and isinstance(kind, type)
        found |= _types(kind, name) if is_record else {name: kind}
    return found


def _is_instance(value: Any, kind: Any) -> bool:
    """Return whether a value has an annotated type, as on the command line."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if members := get_args(kind):
        return any(_is_instance(value, member) for member in members)
    return type(value) in ((int, float) if kind is float else (kind,))


@dataclass
class ImageRecipe:
    """All settings of an image recipe; a `conf/*.yaml` file.

    Attributes:
        seed: random seed of the first run.
        experiment: runs of the experiment.
        images: images.
        train: training of the analog network.
        convert: conversion of the trained network.
        launch: processes and accelerators.
    """

    seed: int = 0
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    images: ImageDataConfig = field(default_factory=ImageDataConfig)
    train: ImagePretrainConfig = field(default_factory=ImagePretrainConfig)
    convert: ImageConversionConfig = field(default_factory=ImageConversionConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def __post_init__(self):
        for setting, values in self.experiment.vary.items():
            for value in values:
                self.convert.varied({setting: value})
        for changes in self.experiment.variants.values():
            self.convert.varied(changes)
