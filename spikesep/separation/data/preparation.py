"""Stage 1 of a speech recipe: from the table of utterances to mixtures on disk and their data directories, in all
rates and modes asked for. A second run verifies what is there and mends what is not.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.files import is_json, write_json
from spikesep.separation.config import RecipeConfig
from spikesep.separation.data.corpora.table import SPLITS, UTTERANCES, read_table
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
    hash_of_plan,
    planned_files,
)
from spikesep.separation.data.mixing.procedures import PROCEDURES
from spikesep.separation.data.mixing.render import Journal, Target, render_mixtures
from spikesep.workers import Workers


@dataclass(frozen=True)
class MadeSet:
    """One version of one set: its plan, what it lists, and how many mixtures were written now."""

    version: Version
    split: str
    directory: Path
    plan: list[PlannedMixture]
    mixtures: list[Mixture]
    written: int


def check_procedure(recipe: RecipeConfig) -> None:
    """Check that the recipe's procedure can make its mixtures, as far as the settings tell.

    Raises:
        SpikeSepError: a setting that it cannot follow, as `--mixing.name value: why`.
    """
    mixing, rules = recipe.mixing, PROCEDURES[recipe.mixing.procedure]
    if mixing.n_speakers < 2:
        raise SpikeSepError(f"--mixing.n_speakers {mixing.n_speakers}: a mixture has at least 2")
    odd = [mode for mode in mixing.modes if mode not in rules.MODES]
    if odd:
        raise SpikeSepError(
            f"--mixing.modes: {odd[0]}; {mixing.procedure} has {', '.join(rules.MODES)}"
        )
    counts = {"tr": mixing.n_train, "cv": mixing.n_closed, "tt": mixing.n_open}
    if recipe.mixing.dynamic.examples:
        del counts["tr"]
    rules.check(mixing, list(counts.values()))


def make_mixtures(
    data: Path, recipe: RecipeConfig, tell: Callable[[str], None] = print
) -> list[MadeSet]:
    """Plan and write all mixtures of a recipe.

    Audio goes where the procedure says, below `data`; data directories go to `data/{tr,cv,tt}` for the first rate and
    mode, and to `data/wav16k/max/{tr,cv,tt}` and so on for the others.

    Raises:
        SpikeSepError: something that the plan needs cannot be had.
    """
    rules = PROCEDURES[recipe.mixing.procedure]
    check_procedure(recipe)
    versions = [
        Version(rate, mode)
        for rate in recipe.mixing.rates_hz
        for mode in recipe.mixing.modes or rules.MODES[:1]
    ]
    table = read_table(data / UTTERANCES)
    counts = (recipe.mixing.n_train, recipe.mixing.n_closed, recipe.mixing.n_open)
    made = []
    with Workers(recipe.launch.n_jobs) as workers:
        for split, n in zip(SPLITS, counts, strict=True):
            if split == "tr" and recipe.mixing.dynamic.examples:
                tell(
                    f"{data / split}: its mixtures are made while training (mixing.dynamic.examples); none is written"
                )
                continue
            plan, notices = rules.plan(table, split, n, recipe, data, workers)
            for notice in notices:
                tell(notice)
            made += _make_set(data.absolute(), split, plan, versions, recipe, workers, tell)
    return made


def _make_set(
    data: Path, split: str, plan: list[PlannedMixture], versions: list[Version], recipe: RecipeConfig, workers: Workers,
    tell: Callable[[str], None],
) -> list[MadeSet]:  # fmt: skip
    """Render one set in all versions, and write lists and data directories where they are not as they should be."""
    procedure, n_speakers = recipe.mixing.procedure, len(plan[0].utterances)
    rules = PROCEDURES[procedure]
    parts = rules.parts(n_speakers, plan[0].noise is not None)
    settings = {"procedure": procedure, "plan": hash_of_plan(plan)}
    targets = []
    for version in versions:
        folder = rules.folder(data, n_speakers, version, split)
        check_writable(data / split, [planned_files(planned, folder, parts) for planned in plan])
        journal = data / "local" / "made" / f"{version.label.replace('/', '_')}_{split}.tsv"
        targets.append(Target(version, folder, journal))
        _begin(targets[-1], _home(data, version, versions) / split, settings, tell)
    rendered = render_mixtures(plan, procedure, targets, data, workers, split)
    sets = []
    for target in targets:
        written, journal = rendered[target.version]
        mixtures = [planned_files(planned, target.folder, parts) for planned in plan]
        made = MadeSet(
            target.version,
            split,
            _home(data, target.version, versions) / split,
            plan,
            mixtures,
            written,
        )
        _finish(made, data, target, journal, rules, tell)
        sets.append(made)
    return sets


def _home(data: Path, version: Version, versions: list[Version]) -> Path:
    return data if version == versions[0] else data / version.label


def _begin(target: Target, directory: Path, settings: dict, tell: Callable[[str], None]) -> None:
    """Make way for mixtures of these settings; remove those of others, and nothing that this command did not make."""
    stamp = target.journal.with_suffix(".json")
    if is_json(stamp, settings):
        return
    if target.folder.exists() and any(target.folder.iterdir()):
        if not stamp.exists():
            raise SpikeSepError(
                f"{target.folder}: holds files that spikesep-prepare did not make; "
                "move them away or give another --data"
            )
        tell(f"{target.folder}: made with other settings; mixing anew")
        shutil.rmtree(target.folder)
    (directory / "wav.scp").unlink(missing_ok=True)  # what it lists is gone
    target.journal.unlink(missing_ok=True)
    write_json(stamp, settings)


def _finish(
    made: MadeSet, data: Path, target: Target, journal: Journal, rules, tell: Callable[[str], None]
) -> None:
    """The lists of a set, unless they are there and right."""
    changed = rules.finish(
        data, made.split, made.plan, made.version, [journal.rows[p.name][1] for p in made.plan]
    )
    whole = is_written(made.directory, made.mixtures)
    if not whole:
        write_data_dir(made.directory, made.mixtures)
        validate_data_dir(made.directory)
    label = f"{made.directory} ({made.version.label}): {len(made.plan)} mixtures"
    if whole and not changed and not made.written:
        tell(f"{label} are there as asked (to mix them anew, remove {target.folder})")
    else:
        tell(f"{label}, {made.written} of them written now")
