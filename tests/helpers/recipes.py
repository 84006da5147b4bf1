"""A tiny speech experiment: its recipe, its mixtures, and records of earlier releases."""

from dataclasses import replace

from spikesep.files import read_json, write_json
from spikesep.separation.config import (
    MixingConfig,
    RecipeConfig,
    SeparatorConfig,
    SpeechConversionConfig,
    SpeechPretrainConfig,
)

RECIPE = RecipeConfig(
    mixing=MixingConfig(snr_db=(0, 5)),
    model=SeparatorConfig(n_filters=8, n_channels=8, dilations=[1, 2], identity="sum"),
    train=SpeechPretrainConfig(epochs=1, segment_seconds=0.5, batch_size=2),
    convert=SpeechConversionConfig(
        max_epochs=1, patience=1, segment_seconds=0.5, train_segments=3, valid_segments=2
    ),
)


def converting(**settings):
    """The recipe with other settings of the conversion."""
    return replace(RECIPE, convert=replace(RECIPE.convert, **settings))


def training(**settings):
    """The recipe with other settings of the training."""
    return replace(RECIPE, train=replace(RECIPE.train, **settings))


def link_data(experiment, folder):
    """A data folder with `tr` and `cv` of a tiny corpus."""
    folder.mkdir()
    (folder / "tr").symlink_to(experiment.data / "tt")
    (folder / "cv").symlink_to(experiment.data / "cv")
    return folder


def write_old_settings(exp):
    """Rewrite an experiment's settings as the release before they were renamed wrote them."""
    for stage, section in (("ann", "train"), ("snn", "convert")):
        path = exp / "settings" / f"{stage}.json"
        settings = read_json(path)
        own, dynamic = settings.pop(section), settings.pop("mixing.dynamic")
        for later in ("corpus_weighting", "voices", "rooms", "noise", "damage", "conversation"):
            del dynamic[later]
        dynamic["on_the_fly"] = dynamic.pop("examples")
        dynamic["by_amount"] = dynamic.pop("speaker_weighting")
        own["clip_norm"] = 5.0
        if stage == "ann":
            settings["ann"] = own | dynamic
        else:
            budget, cache = own.pop("budget"), own.pop("cache")
            own |= {"optimizer": "adam", "cache_gib": cache["memory_gib"]}
            own |= {"synops_budget": budget["synops"], "synops_weight": budget["synops_weight"]}
            settings |= {"ptl": own | {"cache_disk_gib": cache["disk_gib"]}, **dynamic}
        write_json(path, settings)
