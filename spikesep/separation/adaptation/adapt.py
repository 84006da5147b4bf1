"""Adaptation of a model to voices: training, conversion, and the choice of what is better.

State is in files alone, so that a killed run goes on: each step leaves a file when it is complete,
and training and conversion have checkpoints of their own.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from spikesep.errors import SpikeSepError
from spikesep.files import lock_folder, read_json, write_json
from spikesep.provenance import provenance
from spikesep.separation.adaptation.plan import AdaptationConfig, StartingModel, open_model
from spikesep.separation.adaptation.recordings import (
    find_recordings,
    hash_recordings,
    list_pieces,
)
from spikesep.separation.adaptation.scores import (
    ALIGNED,
    TURNED,
    Scores,
    is_better,
    score_network,
)
from spikesep.separation.config import RecipeConfig
from spikesep.separation.data.corpora.screening import ScreenedRecording
from spikesep.separation.data.corpora.table import (
    UTTERANCE_TABLE,
    Utterance,
    read_table,
    write_table,
)
from spikesep.separation.data.kaldi import Mixture, read_data_dir
from spikesep.separation.data.preparation import make_set
from spikesep.separation.experiment import convert_snn, train_ann
from spikesep.separation.model.card import model_card
from spikesep.separation.model.hub import find_tracks
from spikesep.separation.model.separator import KIND, load_separator, save_separator
from spikesep.separation.tracks.embedder import KIND as TRACKS_KIND
from spikesep.separation.tracks.embedder import load_embedder, save_embedder
from spikesep.training.records.model_folder import read_model
from spikesep.training.records.run_folder import first_difference
from spikesep.workers import Workers

RECORD = "adaptation.json"
"""Settings, scores and times of an adaptation."""
POLARITIES = {ALIGNED: "aligned", TURNED: "opposite"}
TITLES = {"tr": "training", "cv": "held out"}
ANN_SHARE = 0.4
"""Share of the time for training that the analog network gets."""
ROUNDING_SHARE = 0.05
"""Share of the budget that is kept for rounding weights, which conversion does not time."""


@dataclass(frozen=True)
class Outcome:
    """Scores of both networks before and after.

    Attributes:
        start: scores of the starting networks, by `ann` and `snn`.
        result: scores of the adapted ones.
        adapted: names of the networks that are better than they were, and given back.
    """

    start: dict[str, Scores]
    result: dict[str, Scores]
    adapted: tuple[str, ...]


def adapt(
    model: str, recordings: Path, out: Path, config: AdaptationConfig, began: float | None = None
) -> Outcome:
    """Adapt a model to the voices of recordings, or go on with an adaptation.

    Args:
        model: see `open_model`.
        recordings: see `find_recordings`.
        out: receives the model folders `ann` and `snn`, neither worse on the held-out mixtures
            than the one it started from, and the data and state of the run.
        config: the settings.
        began: start of the time budget, by `time.monotonic()`; None for now.

    Raises:
        SpikeSepError: the model or the recordings cannot be used, or `out` holds something else.
    """
    began = time.monotonic() if began is None else began
    if out.resolve().is_relative_to(recordings.resolve()):
        raise SpikeSepError(
            f"--out {out}: is within {recordings}, whose folders are speakers; give another"
        )
    start = open_model(model, config)
    found, notices = find_recordings(recordings, config.n_jobs)
    for notice in notices:
        print(notice, flush=True)
    settings = {"model": start.hash, "recordings": hash_recordings(found)} | asdict(config)
    del settings["n_jobs"]
    _check_folder(out, settings)
    with lock_folder(out):
        run = _Run(out, start, config, settings, began)
        run.prepare(recordings, found)
        return run.run(model)


def _check_folder(out: Path, settings: dict[str, Any]) -> None:
    """Check that a folder is new, empty, or of this adaptation.

    Raises:
        SpikeSepError: it is not.
    """
    if out.exists() and not out.is_dir():
        raise SpikeSepError(f"{out}: is a file; give another --out")
    if (out / RECORD).exists():
        record = read_json(out / RECORD)
        before = record["settings"]
        if "minutes" not in record:  # its time is not divided yet, so it may still be changed
            before["minutes"] = settings["minutes"]
        if different := first_difference(before, settings):
            raise SpikeSepError(
                f"{out}: is of another adaptation, with {different}; give another --out"
            )
    elif out.exists() and any(not path.name.startswith(".lock") for path in out.iterdir()):
        raise SpikeSepError(f"{out}: holds files of something else; give another --out")


class _Run:
    """An adaptation in its folder.

    Args:
        out: the folder.
        start: the model.
        config: settings of the user.
        settings: what the result depends on.
        began: start of this process's time, by `time.monotonic()`.
    """

    def __init__(
        self,
        out: Path,
        start: StartingModel,
        config: AdaptationConfig,
        settings: dict[str, Any],
        began: float,
    ):
        self.out, self.start, self.config, self.began = out, start, config, began
        self.data, self.work = out / "data", out / "work"
        self._record = out / RECORD
        state = read_json(self._record) if self._record.exists() else {}
        self.state: dict[str, Any] = {"spent": 0.0, "scores": {}, **state, "settings": settings}
        self._before = self.state["spent"]

    def prepare(self, root: Path, found: Sequence[ScreenedRecording]) -> None:
        """List the recordings and write the held-out mixtures, unless that is done."""
        recipe, table = self.start.recipe, self.data / UTTERANCE_TABLE
        self._save()
        if not table.exists():
            pieces = self.data.absolute() / "pieces"
            try:
                write_table(
                    table, list_pieces(root, found, pieces, recipe.seed, self.config.n_jobs)
                )
            except SpikeSepError:
                shutil.rmtree(self.data, ignore_errors=True)
                self._record.unlink()
                raise
        rows = read_table(table)
        for split, title in TITLES.items():
            print(f"{title}: {_amount(rows, split)}", flush=True)
        with Workers(self.config.n_jobs, "--n-jobs") as workers:
            for name, polarity in POLARITIES.items():
                mixing = replace(recipe.mixing, polarity=polarity)
                data = self._data(name)
                if not (data / UTTERANCE_TABLE).exists():
                    write_table(data / UTTERANCE_TABLE, rows)
                own = replace(recipe, mixing=mixing)
                make_set(data, "cv", mixing.n_closed, own, workers, lambda _: None)

    def run(self, model: str) -> Outcome:
        """Score, train, convert and choose."""
        folders = {"ann": self.start.ann, "snn": self.start.snn}
        for kind, folder in folders.items():
            self._score(f"start {kind}", folder)
        minutes = self._plan()
        recipe = self.start.recipe
        self._train(recipe, minutes["ann"])
        adapted = ["ann"] if self._improves("ann", self.work / "train" / "ann") else []
        self._convert(recipe, minutes["snn"], is_adapted=bool(adapted))
        adapted += ["snn"] if self._improves("snn", self.work / "convert" / "snn") else []
        for kind, folder in folders.items():
            self._publish(kind, folder, model, is_adapted=kind in adapted)
        self._copy_tracks()
        self.state["adapted"] = adapted
        self._save()
        scores = self.state["scores"]
        return Outcome(
            {kind: scores[f"start {kind}"] for kind in folders},
            {kind: scores[f"result {kind}"] for kind in folders},
            tuple(adapted),
        )

    @cached_property
    def _sets(self) -> dict[str, list[Mixture]]:
        return {name: read_data_dir(self._data(name) / "cv") for name in POLARITIES}

    def _data(self, name: str) -> Path:
        return self.data if name == ALIGNED else self.data / TURNED

    def _save(self) -> None:
        self.state["spent"] = self._before + time.monotonic() - self.began
        write_json(self._record, self.state)

    def _score(self, name: str, folder: Path) -> Scores:
        """Score a network, unless that is done."""
        scores = self.state["scores"]
        if name not in scores:
            then = time.monotonic()
            scores[name] = score_network(folder, self._sets)
            own = time.monotonic() - then
            self.state["scoring_seconds"] = self.state.get("scoring_seconds", 0.0) + own
            self._save()
            found = ", ".join(f"{key} {value:.2f} dB" for key, value in scores[name].items())
            print(f"SI-SDRi, {name}: {found}", flush=True)
        return scores[name]

    def _plan(self) -> dict[str, float | None]:
        """Divide the time that is left among the stages, once."""
        if self.config.epochs is not None:
            return {"ann": None, "snn": None}
        if "minutes" not in self.state:
            self._save()
            # The results are scored on the same mixtures.
            spent = self.state["spent"] + self.state["scoring_seconds"]
            left = (1 - ROUNDING_SHARE) * self.config.minutes - spent / 60
            if left <= 0:
                raise SpikeSepError(
                    f"--minutes {self.config.minutes:g}: scoring alone takes {spent / 60:.1f} "
                    "minutes; give more"
                )
            self.state["minutes"] = {"ann": ANN_SHARE * left, "snn": (1 - ANN_SHARE) * left}
            self._save()
        return self.state["minutes"]

    def _train(self, recipe: RecipeConfig, minutes: float | None) -> None:
        """Train the analog network further, unless that is done."""
        exp = self.work / "train"
        if not (exp / "ann").exists():
            recipe = replace(recipe, train=replace(recipe.train, max_minutes=minutes))
            train_ann(self.data, exp, recipe, self.start.ann)
            self._save()

    def _convert(self, recipe: RecipeConfig, minutes: float | None, is_adapted: bool) -> None:
        """Train the spiking network further, or convert the analog one, unless that is done."""
        exp = self.work / "convert"
        if not (exp / "snn").exists():
            ann = self.work / "train" / "ann" if is_adapted else self.start.ann
            recipe = replace(recipe, convert=replace(recipe.convert, max_minutes=minutes))
            snn = [self.start.snn] if self.start.thawed else []
            convert_snn(self.data, exp, recipe, ann, snn)
            self._save()

    def _improves(self, kind: str, folder: Path) -> bool:
        """Score a result; return whether it is better than the start."""
        return is_better(
            self._score(f"result {kind}", folder), self._score(f"start {kind}", folder)
        )

    def _publish(self, kind: str, start: Path, name: str, is_adapted: bool) -> None:
        """Write a model folder: the adapted network, or the one it started from."""
        shutil.rmtree(self.out / kind, ignore_errors=True)
        if not is_adapted:
            saved = read_model(start, KIND)
            save_separator(load_separator(start), self.out / kind, saved.report, saved.card)
            return
        exp = self.work / {"ann": "train", "snn": "convert"}[kind]
        model, report = load_separator(exp / kind), read_model(exp / kind, KIND).report
        title = f"{Path(name).name or name}, adapted ({kind})"
        card = model_card(exp, model, title, str(self.out), made=self._made(kind, name))
        save_separator(model, self.out / kind, report, card)
        write_json(
            self.out / "settings" / f"{kind}.json", read_json(exp / "settings" / f"{kind}.json")
        )

    def _made(self, kind: str, name: str) -> str:
        """Describe the adaptation for the model card."""
        rows, scores = read_table(self.data / UTTERANCE_TABLE), self.state["scores"]
        before, after = scores[f"start {kind}"], scores[f"result {kind}"]
        machine = provenance()["machine"]
        return (
            f"Adapted by spikesep-adapt from `{name}`, whose own training is described on its "
            f"card. Training heard {_amount(rows, 'tr')}; {_amount(rows, 'cv')} are held out. On "
            f"{len(self._sets[ALIGNED])} mixtures of these, which also selected the epoch, SI-SDRi "
            f"went from {before[ALIGNED]:.2f} to {after[ALIGNED]:.2f} dB with voices of the same "
            f"polarity, and from {before[TURNED]:.2f} to {after[TURNED]:.2f} dB with one voice "
            f"inverted ({machine['processor']}, {machine['cores']} cores)."
        )

    def _copy_tracks(self) -> None:
        """Copy the embedder of the model, which has an encoder of its own."""
        tracks = find_tracks(self.start.snn)
        if tracks is not None and not (self.out / "tracks").exists():
            saved = read_model(tracks, TRACKS_KIND)
            save_embedder(load_embedder(tracks), self.out / "tracks", saved.report, saved.card)


def _amount(rows: Sequence[Utterance], split: str) -> str:
    own = [row for row in rows if row.split == split]
    seconds, speakers = sum(row.duration for row in own), {row.speaker for row in own}
    return f"{seconds:.0f} s of {len(speakers)} speakers in {len(own)} pieces"
