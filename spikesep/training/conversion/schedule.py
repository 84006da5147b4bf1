"""Length and learning rate of the stages of a conversion. Stages count from 0."""

import math

from spikesep.training.config import ConversionConfig


def n_stages(config: ConversionConfig, n_layers: int) -> int:
    """Return the number of stages: one per layer, or one if all layers are converted at once."""
    return n_layers if config.method == "ptl" else 1


def max_epochs(config: ConversionConfig, stage: int) -> int:
    """Return the maximum number of epochs of a stage."""
    if config.method == "rate":
        return 0
    if stage == 0 and config.first_stage_epochs is not None:
        return config.first_stage_epochs
    return config.max_epochs


def learning_rate(
    config: ConversionConfig, stage: int, epochs_done: float, share_spent: float = 0.0
) -> float:
    """Return the learning rate, which decays to zero along a half cosine within each stage.

    Args:
        config: the settings.
        stage: the stage.
        epochs_done: epochs trained in this stage, fractional within an epoch.
        share_spent: fraction of the stage's time budget that is spent; the rate decays by the
            budget if that is ahead of the epochs.
    """
    rate, epochs = config.learning_rate, config.max_epochs
    if stage == 0:
        rate, epochs = config.first_stage_learning_rate, config.first_stage_epochs or epochs
    done = max(share_spent, min(1.0, epochs_done / max(1, epochs)))
    return rate * 0.5 * (1 + math.cos(math.pi * done))


def planned_steps(
    config: ConversionConfig, n_layers: int, first_stage: int, later_stages: int
) -> list[tuple[int, int]]:
    """Return the maximum number of epochs and the steps per epoch of each stage.

    Args:
        config: the settings.
        n_layers: number of layers to convert.
        first_stage: steps per epoch of the first stage.
        later_stages: steps per epoch of each later stage.
    """
    return [
        (max_epochs(config, stage), later_stages if stage else first_stage)
        for stage in range(n_stages(config, n_layers))
    ]
