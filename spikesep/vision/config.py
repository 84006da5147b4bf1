"""Settings of the image tasks: plain records, read without importing torch. `ImageRecipe` is one `conf/*.yaml`."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from spikesep.checks import check
from spikesep.errors import SpikeSepError
from spikesep.training.config import ConversionConfig, LaunchConfig, PretrainConfig


@dataclass
class ImageDataConfig:
    """Which images.

    Attributes:
        name: `mnist` and `cifar10` are fetched where they are missing; `imagenet` is a folder.
        root: folder that holds the data set: the files that torchvision knows for `mnist` and `cifar10` (empty: they
            are fetched), `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG` for `imagenet`.
        valid_share: of the training part, kept for validation; drawn by `split_seed`.
        split_seed: fixed, so that all experiments share one split.
        train_examples, valid_examples, test_examples: take only so many of each, for a reduced run; 0 takes all.
        augment: shift and, but for digits, mirror the training images of pre-training and of the first stage at random.
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
    """How the trained network is converted.

    Attributes:
        train_examples: most training examples of all stages but the first; 0 takes all.
        untrained: `tandem` and `surrogate` begin with fresh weights, as in the paper's Fig. 4.
        weight_bits: 0 unless asked for, for the paper's image tasks are scored in floating point.
    """

    train_examples: int = 0
    untrained: bool = False
    weight_bits: int = 0

    def __post_init__(self):
        super().__post_init__()
        check("ptl", self, train_examples="not negative")


@dataclass
class ExperimentConfig:
    """Which runs make the experiment.

    Attributes:
        name: of the table or figure, and of `results/<name>.json`; empty for runs of one's own.
        task: `classification` (cross entropy, accuracy) or `reconstruction` (mean square error).
        architectures: one or more of `spikesep.vision.architectures`.
        n_seeds: independent runs, of which mean and spread are given: seed, seed + 1, ...
        vary: settings of the conversion and the values each takes in turn, e.g. {ptl.n_steps: [32, 16]}; each is varied
            alone.
        reduced: what was reduced against the paper's experiment, and why; empty where nothing was.
    """

    name: str = ""
    task: Literal["classification", "reconstruction"] = "classification"
    architectures: list[str] = field(default_factory=lambda: ["mnist-cnn"])
    n_seeds: int = 1
    vary: dict[str, list[bool | int | float | str]] = field(
        default_factory=lambda: {"ptl.n_steps": [16]}
    )
    reduced: str = ""

    def __post_init__(self):
        check("experiment", self, n_seeds="at least 1")
        if not self.architectures:
            raise SpikeSepError("--experiment.architectures: name at least one")
        for setting, values in self.vary.items():
            kind = get_type_hints(ImageConversionConfig).get(setting.removeprefix("ptl."))
            if not setting.startswith("ptl.") or kind is None:
                raise SpikeSepError(f"--experiment.vary {setting}: not a setting of ptl")
            if not values:
                raise SpikeSepError(f"--experiment.vary {setting}: give it values")
            for value in values:
                if not _is_one(value, kind):
                    raise SpikeSepError(
                        f"--experiment.vary {setting}: {value!r} is no value of --{setting}"
                    )


def _is_one(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type, as on the command line."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_args(kind):  # a union
        return any(_is_one(value, one) for one in get_args(kind))
    return type(value) in ((int, float) if kind is float else (kind,))


@dataclass
class ImageRecipe:
    """Everything an image recipe can be told."""

    seed: int = 0
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    images: ImageDataConfig = field(default_factory=ImageDataConfig)
    ann: PretrainConfig = field(default_factory=PretrainConfig)
    ptl: ImageConversionConfig = field(default_factory=ImageConversionConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def __post_init__(self):
        for setting, values in self.experiment.vary.items():
            for value in values:
                self.varied(setting, value)

    def varied(self, setting: str, value: Any) -> ImageConversionConfig:
        """The settings of the conversion with one, `ptl.<name>`, at another value.

        Raises:
            SpikeSepError: they do not go together.
        """
        return replace(self.ptl, **{setting.removeprefix("ptl."): value})
