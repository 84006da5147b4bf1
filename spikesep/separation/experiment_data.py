"""Training and validation data of an experiment."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from spikesep.errors import SpikeSepError
from spikesep.files import hash_files
from spikesep.separation.config import RecipeConfig
from spikesep.separation.data.corpora.table import (
    ABSENT,
    UTTERANCE_TABLE,
    Utterance,
    read_table,
)
from spikesep.separation.data.dataset import CropList, FixedCrops, RandomCrops, crop_loader
from spikesep.separation.data.dynamic_mixing import DynamicCrops
from spikesep.separation.data.kaldi import Mixture, read_data_dir
from spikesep.separation.data.mixing.balanced import MEAN_LEVEL_DB
from spikesep.separation.data.mixture_files import find_residuals
from spikesep.separation.data.remixing import Collate
from spikesep.separation.data.simulation.simulator import open_simulator
from spikesep.separation.objective import knows_silence
from spikesep.training.processes.launch import n_loader_workers

N_HASHED = 32
"""Number of training utterances whose files are hashed, of those mixed on the fly."""


@dataclass(frozen=True)
class ExperimentData:
    """Mixtures of an experiment.

    Attributes:
        folder: the data folder.
        recipe: the settings.
        train: training mixtures (empty when mixed on the fly).
        valid: validation mixtures.
        heard: hash of the samples.
    """

    folder: Path
    recipe: RecipeConfig
    train: list[Mixture]
    valid: list[Mixture]
    heard: str

    def random_crops(self, n_samples: int, batch_size: int, seed: int) -> DataLoader:
        """Return batches of random training crops, different in each epoch.

        Mixtures with a residual (`Mixture.has_residual`) are used as they are: since the residual
        may be the sources' reverberation, the sources are neither re-paired nor inverted. Nor are
        those of sets with silent sources, which have no level.

        Args:
            n_samples: samples per crop.
            batch_size: crops per batch.
            seed: seed of crops and order.
        """
        recipe, dynamic = self.recipe, self.recipe.mixing.dynamic
        fixed = any(mixture.has_residual or ABSENT in mixture.speakers for mixture in self.train)
        turns = recipe.mixing.procedure == "conversation"
        changes = not (dynamic.examples or fixed or turns)
        collate = Collate(
            remix=changes and dynamic.remix,
            snr_db=recipe.mixing.snr_db,
            random_polarity=changes and "polarity" in dynamic.channel,
        )
        n_workers = n_loader_workers(recipe.launch)
        if dynamic.examples:
            crops = self._dynamic_crops(n_samples, seed)
            return crop_loader(crops, batch_size, seed, collate, n_workers)
        crops = RandomCrops(self.train, recipe.model.sample_rate, n_samples, seed)
        return crop_loader(crops, batch_size, seed, collate, n_workers)

    def fixed_crops(self, n_samples: int, at_most: int) -> CropList:
        """Return training crops that stay the same in all epochs.

        Args:
            n_samples: samples per crop.
            at_most: maximum number of crops.
        """
        recipe = self.recipe
        if recipe.mixing.dynamic.examples:
            crops = self._dynamic_crops(n_samples, recipe.seed + 2)
            return CropList(crops[0, k] for k in range(at_most))
        rate, silence = recipe.model.sample_rate, knows_silence(recipe.train.loss)
        return FixedCrops(self.train, rate, n_samples, at_most, recipe.seed, silence=silence)

    def _dynamic_crops(self, n_samples: int, seed: int) -> DynamicCrops:
        mixing, model, dynamic = self.recipe.mixing, self.recipe.model, self.recipe.mixing.dynamic
        utterances = _training_utterances(self.folder)
        simulator = None
        if set(dynamic.simulated) & {"rooms", "noise", "damage"}:
            simulator = open_simulator(
                self.folder,
                dynamic,
                [row.path for row in utterances],
                n_voices=model.n_speakers,
                sample_rate=model.sample_rate,
                level_db=MEAN_LEVEL_DB,
                split="tr",
                seed=self.recipe.seed,
                n_jobs=self.recipe.launch.n_jobs,
            )
        return DynamicCrops(
            utterances,
            n=dynamic.examples,
            n_speakers=model.n_speakers,
            sample_rate=model.sample_rate,
            n_samples=n_samples,
            snr_db=mixing.snr_db,
            speeds=dynamic.speeds,
            by_amount=dynamic.speaker_weighting,
            by_corpus=dynamic.corpus_weighting,
            effects=dynamic.channel,
            polarity=mixing.polarity,
            counts=dynamic.voices,
            conversation=dynamic.conversation if dynamic.conversation.probability else None,
            simulator=simulator,
            seed=seed,
        )

    def print_residuals(self) -> None:
        """Print how many mixtures of each set are not the sum of their sources."""
        notes = {
            "tr": ", and neither re-paired (mixing.dynamic.remix) nor inverted "
            "(mixing.dynamic.channel); to have both, list what is only added to the voices in "
            "noise.scp",
            "cv": "",
        }
        for name, mixtures in (("tr", self.train), ("cv", self.valid)):
            if n := sum(mixture.has_residual for mixture in mixtures):
                print(
                    f"{self.folder / name}: {n} of {len(mixtures)} mixtures contain more than the "
                    f"sum of their sources; they are used as they are{notes[name]}"
                )

    def _polarity(self) -> dict[str, str]:
        """Return the polarity of dynamic mixtures, which the data directories do not tell."""
        mixing = self.recipe.mixing
        as_default = mixing.polarity == "as_recorded" or not mixing.dynamic.examples
        return {} if as_default else {"polarity": mixing.polarity}

    def settings(self, *sections: str) -> dict[str, Any]:
        """Return what a stage depends on: seed, mixtures, their samples, and sections of settings.

        Not the location of the data, which may be moved.
        """
        mixtures = hash_of_lists(self.folder)
        if self.recipe.mixing.dynamic.examples:
            ids = " ".join(row.utt_id for row in _training_utterances(self.folder))
            mixtures += f" {hashlib.sha256(ids.encode()).hexdigest()[:16]}"
        return {
            "seed": self.recipe.seed,
            "data": mixtures,
            "heard": self.heard,
            "snr_db": self.recipe.mixing.snr_db,
            **self._polarity(),
            **({} if self.recipe.train.loss == "si_sdr" else {"loss": self.recipe.train.loss}),
            **{section: getattr(self.recipe, section) for section in sections},
        }


def read_experiment_data(folder: Path, recipe: RecipeConfig) -> ExperimentData:
    """Read the data directories and hash the samples of their mixtures.

    Raises:
        SpikeSepError: a file cannot be read, or the number of speakers is not the model's.
    """
    on_the_fly = bool(recipe.mixing.dynamic.examples)
    found: dict[str, list[Mixture]] = {"tr": [], "cv": []}
    heard = _hash_of_utterances(folder) if on_the_fly else ""
    for name in ("cv",) if on_the_fly else ("tr", "cv"):
        mixtures = read_data_dir(folder / name)
        n_speakers = len(mixtures[0].sources)
        if n_speakers != recipe.model.n_speakers:
            raise SpikeSepError(
                f"{folder / name}: mixtures of {n_speakers} speakers; set --model.n_speakers to "
                "this number"
            )
        found[name], own = find_residuals(mixtures, recipe.model.sample_rate)
        heard += own
    return ExperimentData(folder, recipe, found["tr"], found["cv"], heard)


def dynamic_settings(recipe: RecipeConfig) -> dict[str, Any]:
    """Return the settings of dynamic mixing, on which training and conversion depend."""
    return {"mixing.dynamic": recipe.mixing.dynamic}


def hash_of_lists(data: Path) -> str:
    """Return a hash of the lists of training and validation mixtures."""
    lists = [data / split / name for split in ("tr", "cv") for name in ("utt2spk", "mixtures.tsv")]
    return hash_files([path for path in lists if path.exists()])


def _training_utterances(data: Path) -> list[Utterance]:
    return [row for row in read_table(data / UTTERANCE_TABLE) if row.split == "tr"]


def _hash_of_utterances(data: Path) -> str:
    """Return a hash of the training utterances: ids and durations, and some of the files."""
    rows = sorted(_training_utterances(data), key=lambda row: row.utt_id)
    names = " ".join(f"{row.utt_id} {row.duration:.6f}" for row in rows)
    some = rows[:: -(-len(rows) // N_HASHED)] if rows else []
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    return digest + hash_files([row.path for row in some])
