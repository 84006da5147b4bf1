"""Settings of an adaptation: those of the user, and the recipe that follows from the model."""

from dataclasses import asdict, dataclass
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.separation.config import (
    DynamicMixingConfig,
    MixingConfig,
    RecipeConfig,
    SpeechConversionConfig,
    SpeechPretrainConfig,
)
from spikesep.separation.initial_models import hash_of_weights, load_thawed
from spikesep.separation.model.card_sections import stage_settings
from spikesep.separation.model.hub import find_model
from spikesep.separation.model.separator import Separator, load_separator
from spikesep.spiking.levels.network import levels_settings
from spikesep.training.config import LaunchConfig
from spikesep.training.levels_config import LevelsConfig

BATCH_SIZE = 8
STEPS_PER_EPOCH = 20
SEGMENT_SECONDS = 1.0
N_SEGMENTS = 16
"""Crops for the validation of each layer's conversion, and for thresholds and rounding."""
N_MIXTURES = 32
"""Held-out mixtures."""
NO_LIMIT = 1000
"""Epochs of a stage that the time budget ends."""
SNN_RATE = 0.05
"""Learning rate of the spiking network over that of the analog one."""


@dataclass(frozen=True)
class AdaptationConfig:
    """Settings of an adaptation.

    Attributes:
        minutes: wall-clock budget of the whole, over all its restarts.
        epochs: epochs of each stage, in place of the time budget; a result then depends on the
            seed alone.
        learning_rate: peak learning rate of the analog network.
        seed: seed of the held-out part, mixtures and training.
        n_jobs: processes for reading and mixing; 0 for one per core.
    """

    minutes: float = 10.0
    epochs: int | None = None
    learning_rate: float = 1e-3
    seed: int = 0
    n_jobs: int = 0

    def __post_init__(self):
        least = {"epochs": 1, "n_jobs": 0}
        for name, value in asdict(self).items():
            bound = least.get(name)
            if name == "seed" or value is None:
                continue
            if not (value > 0 if bound is None else value >= bound):
                rule = "positive" if bound is None else f"at least {bound}"
                raise SpikeSepError(f"--{name.replace('_', '-')} {value}: must be {rule}")


@dataclass(frozen=True)
class StartingModel:
    """The model that is adapted.

    Attributes:
        ann: folder or file of the analog network.
        snn: that of the spiking network.
        recipe: settings to train both further, without budgets.
        thawed: whether the spiking network can be trained further as it is; otherwise the adapted
            analog network is converted.
    """

    ann: Path
    snn: Path
    recipe: RecipeConfig
    thawed: bool

    @property
    def hash(self) -> str:
        """Hash of the weights of both networks."""
        return hash_of_weights(self.ann, self.snn)


def open_model(name: str, config: AdaptationConfig) -> StartingModel:
    """Find a model and derive the recipe of its adaptation.

    Args:
        name: a shipped model, a folder with `ann` and `snn`, or a name on the hub.
        config: settings of the user.

    Raises:
        SpikeSepError: there is no such model, it lacks a network, or separates another number of
            voices than two.
    """
    paths = {kind: find_model(name, kind) for kind in ("ann", "snn")}
    networks = {kind: load_separator(path) for kind, path in paths.items()}
    for kind, network in networks.items():
        if network.kind != kind:
            raise SpikeSepError(
                f"{name}: is one network; give the folder that holds both, ann and snn"
            )
    if networks["ann"].config != networks["snn"].config:
        raise SpikeSepError(f"{name}: ann and snn differ in architecture; give another model")
    if networks["ann"].config.n_speakers != 2:
        raise SpikeSepError(
            f"{name}: separates {networks['ann'].config.n_speakers} voices; adaptation needs a "
            "model of two"
        )
    trained = stage_settings(paths["ann"].parent, "ann")
    converted = stage_settings(paths["snn"].parent, "snn")
    loss = trained.get("loss", "si_sdr")
    recipe = _recipe(config, networks, loss, converted.get("convert", {}))
    return StartingModel(**paths, recipe=recipe, thawed=_can_thaw(paths["snn"], recipe))


def _recipe(
    config: AdaptationConfig, networks: dict[str, Separator], loss: str, converted: dict
) -> RecipeConfig:
    """Derive the recipe from both networks and the recorded settings of their training."""
    ann = networks["ann"]
    mixing = MixingConfig(
        rates=[f"{ann.sample_rate / 1000:g}k"],
        polarity="aligned",
        n_closed=N_MIXTURES,
        dynamic=DynamicMixingConfig(
            examples=BATCH_SIZE * STEPS_PER_EPOCH,
            speeds=[0.9, 1.0, 1.1],
            channel=["equalizer"],
        ),
    )
    train = SpeechPretrainConfig(
        epochs=config.epochs or NO_LIMIT,
        batch_size=BATCH_SIZE,
        optimizer="muon",
        learning_rate=config.learning_rate,
        warmup_steps=STEPS_PER_EPOCH // 2,
        schedule="cosine",
        cosine_from=0.1,
        segment_seconds=SEGMENT_SECONDS,
        loss=loss,  # pyright: ignore[reportArgumentType]
        levels=LevelsConfig(**levels_settings(ann.network)),
    )
    return RecipeConfig(
        seed=config.seed,
        mixing=mixing,
        model=ann.config,
        train=train,
        convert=_conversion(config, networks["snn"], converted),
        launch=LaunchConfig(n_jobs=config.n_jobs),
    )


def _conversion(
    config: AdaptationConfig, snn: Separator, converted: dict
) -> SpeechConversionConfig:
    """Derive the settings of the conversion, which keep the form of the spiking network."""
    limits, epochs = snn.network.limits, config.epochs or NO_LIMIT
    return SpeechConversionConfig(
        **asdict(snn.network[0].coding),
        gradient="clipped",
        qat_bits=limits.weight_bits,
        fan_in=limits.fan_in,
        weight_bits=converted.get("weight_bits", 8) if snn.network.is_fixed_point else 0,
        patience=epochs,
        first_stage_epochs=epochs,
        max_epochs=0,
        first_stage_learning_rate=config.learning_rate * SNN_RATE,
        batch_size=BATCH_SIZE,
        segment_seconds=SEGMENT_SECONDS,
        calibration_examples=N_SEGMENTS,
        train_segments=N_SEGMENTS,
        valid_segments=N_SEGMENTS,
    )


def _can_thaw(snn: Path, recipe: RecipeConfig) -> bool:
    try:
        load_thawed([snn], recipe)
    except SpikeSepError:
        return False
    return True
