"""Stage 1 of a speech recipe: from the table of utterances to mixtures and data directories.

Mixtures are written in all requested rates and modes. A second run verifies what exists and repairs
what is missing or damaged.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import json_file_equals, write_json
from spikesep.separation.config import RecipeConfig
from spikesep.separation.data.corpora.table import SPLITS, UTTERANCE_TABLE, read_table
from spikesep.separation.data.kaldi import (
    Mixture,
    check_writable,
    is_written,
    validate_data_dir,
    write_data_dir,
)
from spikesep.separation.data.mixing.plan import (
    PlannedMixture,
    Version,
    hash_plan,
    planned_files,
)
from spikesep.separation.data.mixing.procedures import PROCEDURES, Procedure
from spikesep.separation.data.mixing.render import Journal, Target, render_mixtures
from spikesep.workers import Workers

Notify = Callable[[str], object]


@dataclass(frozen=True)
class RenderedSet:
    """One version of one set.

    Attributes:
        version: Rate and mode.
        split: `tr`, `cv` or `tt`.
        directory: Data directory.
        plan: Planned mixtures.
        mixtures: Mixtures that the data directory lists.
        written: Number of mixtures written in this run.
    """

    version: Version
    split: str
    directory: Path
    plan: list[PlannedMixture]
    mixtures: list[Mixture]
    written: int


def check_procedure(recipe: RecipeConfig) -> None:
    """Check that the recipe's procedure supports its settings.

    Raises:
        SpikeSepError: If it does not; the message is `--mixing.name value: reason`.
    """
    mixing, procedure = recipe.mixing, PROCEDURES[recipe.mixing.procedure]
    if mixing.n_speakers < 2:
        raise SpikeSepError(f"--mixing.n_speakers {mixing.n_speakers}: a mixture has at least 2")
    unknown = [mode for mode in mixing.modes if mode not in procedure.MODES]
    if unknown:
        raise SpikeSepError(
            f"--mixing.modes: {unknown[0]}; {mixing.procedure} has {', '.join(procedure.MODES)}"
        )
    counts = {"tr": mixing.n_train, "cv": mixing.n_closed, "tt": mixing.n_open}
    if recipe.mixing.dynamic.examples:
        del counts["tr"]
    procedure.check_settings(mixing, list(counts.values()))


def make_mixtures(data: Path, recipe: RecipeConfig, notify: Notify = print) -> list[RenderedSet]:
    """Plan and write all mixtures of a recipe.

    Audio files go to folders below `data` that depend on the procedure. Data directories of the
    first rate and mode are `data/{tr,cv,tt}`; those of others are for example
    `data/wav16k/max/{tr,cv,tt}`.

    Args:
        data: Data folder, with the table of utterances.
        recipe: Settings.
        notify: Receives a line about each set and other notices for the user.

    Raises:
        SpikeSepError: If the plan needs something that is missing.
    """
    check_procedure(recipe)
    counts = (recipe.mixing.n_train, recipe.mixing.n_closed, recipe.mixing.n_open)
    rendered = []
    with Workers(recipe.launch.n_jobs) as workers:
        for split, n in zip(SPLITS, counts, strict=True):
            if split == "tr" and recipe.mixing.dynamic.examples:
                notify(
                    f"{data / split}: its mixtures are made while training "
                    "(mixing.dynamic.examples); none is written"
                )
                continue
            rendered += make_set(data, split, n, recipe, workers, notify)
    return rendered


def make_set(
    data: Path, split: str, n: int, recipe: RecipeConfig, workers: Workers, notify: Notify = print
) -> list[RenderedSet]:
    """Plan and write the mixtures of one set, in all versions.

    Args:
        data: Data folder, with the table of utterances.
        split: `tr`, `cv` or `tt`.
        n: Number of mixtures, unless published lists are used.
        recipe: Settings.
        workers: Processes.
        notify: Receives a line about the set and other notices for the user.

    Raises:
        SpikeSepError: If the plan needs something that is missing.
    """
    table = read_table(data / UTTERANCE_TABLE)
    procedure = PROCEDURES[recipe.mixing.procedure]
    plan, notices = procedure.plan_set(table, split, n, recipe, data, workers)
    for notice in notices:
        notify(notice)
    return _SetWriter(data.absolute(), split, recipe, plan, notify).write(workers)


class _SetWriter:
    """Writes one set in all versions, with lists and data directories.

    Args:
        data: Data folder, absolute.
        split: Name of the set.
        recipe: Settings.
        plan: Planned mixtures of the set.
        notify: Receives notices for the user.
    """

    def __init__(
        self,
        data: Path,
        split: str,
        recipe: RecipeConfig,
        plan: list[PlannedMixture],
        notify: Notify,
    ):
        self._data, self._split, self._plan, self._notify = data, split, plan, notify
        self._name = recipe.mixing.procedure
        self._procedure: Procedure = PROCEDURES[self._name]
        self._n_speakers = len(plan[0].voices)
        modes = recipe.mixing.modes or self._procedure.MODES[:1]
        self._versions = [Version(rate, mode) for rate in recipe.mixing.rates_hz for mode in modes]

    def write(self, workers: Workers) -> list[RenderedSet]:
        """Render what is missing, and repair lists and data directories.

        Raises:
            SpikeSepError: If a recording cannot be used, a list cannot hold a path, or a folder
                holds other files.
        """
        settings = {"procedure": self._name, "plan": hash_plan(self._plan)}
        targets = [self._target(version) for version in self._versions]
        for target in targets:
            check_writable(self._data / self._split, self._files(target))
            self._prepare_target(target, settings)
        rendered = render_mixtures(
            self._plan, self._name, targets, self._data, workers, self._split
        )
        return [self._finish(target, *rendered[target.version]) for target in targets]

    def _target(self, version: Version) -> Target:
        folder = self._procedure.output_folder(self._data, self._n_speakers, version, self._split)
        name = f"{version.label.replace('/', '_')}_{self._split}.tsv"
        return Target(version, folder, self._data / "local" / "made" / name)

    def _directory(self, version: Version) -> Path:
        """Return the data directory of a version."""
        home = self._data if version == self._versions[0] else self._data / version.label
        return home / self._split

    def _files(self, target: Target) -> list[Mixture]:
        noisy = self._plan[0].noise is not None
        signals = self._procedure.signal_names(self._n_speakers, noisy)
        return [planned_files(planned, target.folder, signals) for planned in self._plan]

    def _prepare_target(self, target: Target, settings: dict) -> None:
        """Remove mixtures of other settings, and nothing that was not made by this command.

        Raises:
            SpikeSepError: If the folder holds other files.
        """
        stamp = target.journal.with_suffix(".json")
        if json_file_equals(stamp, settings):
            return
        if target.folder.exists() and any(target.folder.iterdir()):
            if not stamp.exists():
                raise SpikeSepError(
                    f"{target.folder}: holds files that spikesep-prepare did not make; "
                    "move them away or give another --data"
                )
            self._notify(f"{target.folder}: made with other settings; mixing again")
            shutil.rmtree(target.folder)
        # The list would name files that no longer exist.
        (self._directory(target.version) / "wav.scp").unlink(missing_ok=True)
        target.journal.unlink(missing_ok=True)
        write_json(stamp, settings)

    def _finish(self, target: Target, written: int, journal: Journal) -> RenderedSet:
        """Write lists and data directory unless they are up to date, and report the result."""
        version, directory = target.version, self._directory(target.version)
        mixtures = self._files(target)
        gains = [journal.rows[planned.name][1] for planned in self._plan]
        changed = self._procedure.write_lists(self._data, self._split, self._plan, version, gains)
        up_to_date = is_written(directory, mixtures)
        if not up_to_date:
            write_data_dir(directory, mixtures)
            validate_data_dir(directory)
        label = f"{directory} ({version.label}): {len(self._plan)} mixtures"
        if up_to_date and not changed and not written:
            self._notify(f"{label} are up to date (to mix them again, remove {target.folder})")
        else:
            self._notify(f"{label}, {written} of them written now")
        return RenderedSet(version, self._split, directory, self._plan, mixtures, written)
