"""Settings of the image recipes, importable without torch."""

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
    """

    name: Literal["mnist", "cifar10", "imagenet"] = "mnist"
    root: str = ""
    valid_share: float = 0.1
    split_seed: int = 0
    train_examples: int = 0
    valid_examples: int = 0
    test_examples: int = 0
    augment: bool = False

    def __post_init__(self):
        check(
            "images",
            self,
            valid_share="between 0 and 1",
            train_examples="not negative",
            valid_examples="not negative",
            test_examples="not negative",
        )


@dataclass
class ImageConversionConfig(ConversionConfig):
    """Conversion of the trained network.

    Attributes:
        train_examples: number of training examples of all stages but the first; 0 for all.
        untrained: start the methods `tandem` and `surrogate` from random weights, as in Fig. 4 of
            the paper.
        weight_bits: bits of the integer weights of the finished network, 2 to 8; 0 for float32,
            as in the paper's image tasks.
    """

    train_examples: int = 0
    untrained: bool = False
    weight_bits: int = 0

    def __post_init__(self):
        super().__post_init__()
        check("convert", self, train_examples="not negative")

    def varied(self, setting: str, value: Any) -> "ImageConversionConfig":
        """Return a copy with one setting changed.

        Args:
            setting: `convert.NAME` or `convert.SECTION.NAME`.
            value: its value.

        Raises:
            SpikeSepError: the settings contradict each other.
        """
        _, *sections, name = setting.split(".")
        if not sections:
            return replace(self, **{name: value})
        section = getattr(self, sections[0])
        return replace(self, **{sections[0]: replace(section, **{name: value})})


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
    reduced: str = ""

    def __post_init__(self):
        check("experiment", self, n_seeds="at least 1")
        if not self.architectures:
            raise SpikeSepError("--experiment.architectures: name at least one")
        self.vary = migrated_names(self.vary, "--experiment.vary")
        types = _types(ImageConversionConfig, "convert")
        for setting, values in self.vary.items():
            option = f"--experiment.vary {setting}"
            if setting not in types:
                raise SpikeSepError(f"{option}: not a setting of the section convert")
            if not values:
                raise SpikeSepError(f"{option}: give at least one value")
            for value in values:
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
    train: PretrainConfig = field(default_factory=PretrainConfig)
    convert: ImageConversionConfig = field(default_factory=ImageConversionConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def __post_init__(self):
        for setting, values in self.experiment.vary.items():
            for value in values:
                self.convert.varied(setting, value)
