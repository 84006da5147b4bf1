"""The two training stages of a speech recipe: data directories and settings in, a model folder out."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from asteroid.losses import PITLossWrapper, pairwise_neg_sisdr
from torch import Tensor
from torch.utils.data import DataLoader

from spikesep.errors import SpikeSepError
from spikesep.files import hash_files, read_json, write_json
from spikesep.separation.config import RecipeConfig
from spikesep.separation.data.corpora.table import UTTERANCE_TABLE, read_table
from spikesep.separation.data.dataset import CropList, FixedCrops, RandomCrops, crop_loader
from spikesep.separation.data.dynamic_mixing import DynamicCrops
from spikesep.separation.data.kaldi import Mixture, read_data_dir
from spikesep.separation.data.mixture_files import find_residuals
from spikesep.separation.data.remixing import Collate
from spikesep.separation.model.separator import Separator, load_separator, save_separator
from spikesep.spiking.conversion.report import LayerReport, conversion_report
from spikesep.spiking.conversion.spike_budget import match
from spikesep.training.config import is_first_process
from spikesep.training.convert import convert
from spikesep.training.pretrain import pretrain
from spikesep.training.processes.launch import check_gpus, n_loader_workers, seed_everything
from spikesep.training.records.history import History
from spikesep.training.records.run_folder import claim

VALID_SECONDS = 4.0


class NegativeSiSdr:
    """Training loss: permutation-invariant negative SI-SDR in dB, zero-mean (eq. 14), mean over speakers and batch."""

    def __init__(self):
        self._pit = PITLossWrapper(pairwise_neg_sisdr, pit_from="pw_mtx")

    def __call__(self, estimates: Tensor, sources: Tensor) -> Tensor:
        """Of estimates and sources, each [B, n_speakers, T]."""
        return self._pit(estimates, sources)


def train_ann(
    data: Path, exp: Path, recipe: RecipeConfig, ann: Path | None = None, began: float | None = None
) -> Path:
    """Pre-train the analog separator on `data/tr`, validated on `data/cv`; returns the model folder `exp/ann`.

    It begins with the weights of the separator `ann`, if given, else with random ones. Several processes may train
    together (`launch`): each calls this, and the first writes. The time budget counts from `began`, by
    `time.monotonic()`; None for now.
    """
    folder, began = exp / "ann", time.monotonic() if began is None else began
    train, valid, heard = _mixtures(data, recipe)
    settings = _settings(data, heard, recipe, "model", "ann")
    begun = None if ann is None else _analog(ann, recipe).train()
    if begun is not None:
        settings["from_ann"] = _hash_of_weights(ann)
    if folder.exists():
        _claim(exp, "ann", settings, data)
        print(f"{folder} is there and complete; delete {exp} to train again")
        return folder
    seed_everything(recipe.seed)
    rate, config = recipe.model.sample_rate, recipe.ann
    n_samples = round(config.segment_seconds * rate)
    loader = _random_crops(data, train, recipe, n_samples, config.batch_size, recipe.seed)
    crops = FixedCrops(valid, rate, round(VALID_SECONDS * rate))
    loss = NegativeSiSdr()
    model = Separator(recipe.model) if begun is None else begun
    check_gpus(recipe.launch)
    if is_first_process():
        _claim(exp, "ann", settings, data)
        _tell_residuals(data, train, valid)
        print(
            f"training {sum(p.numel() for p in model.parameters()):,} parameters on {len(loader.dataset)} mixtures, "
            f"{len(crops)} crops for validation; loss is negative SI-SDR in dB, metric is SI-SDR improvement in dB"
        )
    valid_loader = DataLoader(crops, batch_size=config.batch_size)
    history = History(exp / "history.csv")
    metric = _improvement(crops, loss)
    checkpoints = exp / "checkpoints" / "ann"
    pretrain(
        model,
        loss,
        loader,
        valid_loader,
        config,
        checkpoints,
        history,
        metric,
        recipe.launch,
        began,
    )
    if is_first_process():
        save_separator(model, folder)
    return folder


def convert_snn(
    data: Path,
    exp: Path,
    recipe: RecipeConfig,
    ann: Path | None = None,
    snn: Sequence[Path] = (),
    began: float | None = None,
) -> tuple[Path, list[LayerReport]]:
    """Convert `exp/ann` by progressive tandem learning; returns the model folder `exp/snn` and a report a layer.

    Where there is no `exp/ann`, the analog separator in folder `ann` is copied there first: one network can be
    converted in several experiments. Where `snn` is given, `exp/ann` was converted to it before, and the first stage
    begins with its weights and thresholds; of several, with the mean of their weights (Wortsman et al., "Model soups",
    arXiv 2203.05482). The report is written into the model folder as `report.json`. The time budget counts from
    `began`, by `time.monotonic()`; None for now.

    Raises:
        SpikeSepError: there is no analog separator, or it cannot be converted, or `exp/ann` is there and neither `ann`
            nor what was trained further from it, or `snn` cannot learn on under these settings.
    """
    folder, began = exp / "snn", time.monotonic() if began is None else began
    if ann is not None and not (exp / "ann").exists():
        _take_over(ann, exp, recipe)
    elif ann is not None and not _stems_from(exp, ann):
        raise SpikeSepError(
            f"{exp / 'ann'}: is there and is not {ann}; take another --tag, or leave --from-ann out"
        )
    if not (exp / "ann").exists():
        raise SpikeSepError(
            f"{exp / 'ann'}: no trained separator; run stage 2 (spikesep-train) or give --from-ann"
        )
    train, valid, heard = _mixtures(data, recipe)
    settings = _settings(data, heard, recipe, "ptl") | {
        "remix": recipe.ann.remix,
        "on_the_fly": recipe.ann.on_the_fly,
        "speeds": recipe.ann.speeds,
        "by_amount": recipe.ann.by_amount,
        "channel": recipe.ann.channel,
    }
    model = (
        _mean([_thawed(path, recipe) for path in snn], snn) if snn else _analog(exp / "ann", recipe)
    )
    if snn:
        settings["from_snn"] = _hash_of_weights(*snn)
    if folder.exists():
        _claim(exp, "snn", settings, data)
        print(
            f"{folder} is there and complete; delete it and {exp / 'checkpoints' / 'snn'} to convert again"
        )
        return folder, []
    seed_everything(recipe.seed)
    config = recipe.ptl
    n_samples = round(config.segment_seconds * model.sample_rate)
    train_crops = _fixed_crops(data, train, recipe, n_samples, config.train_segments)
    valid_crops = FixedCrops(
        valid, model.sample_rate, n_samples, config.valid_segments, recipe.seed
    )
    # Other crops than those of pre-training.
    seed = recipe.seed + 1
    fresh = (
        _random_crops(data, train, recipe, n_samples, config.batch_size, seed)
        if config.discretize
        else None
    )
    check_gpus(recipe.launch)
    device = "cuda" if recipe.launch.n_gpus else "cpu"
    if recipe.launch.local_processes * recipe.launch.n_nodes > 1:
        print(
            f"conversion runs in one process, on one {'accelerator' if recipe.launch.n_gpus else 'machine'}"
        )
    _claim(exp, "snn", settings, data)
    _tell_residuals(data, train, valid)
    print(
        f"converting {len(model.network)} layers to {config.n_steps} time steps:\n{model.network.plan()}"
    )
    loss, history = NegativeSiSdr(), History(exp / "history.csv")
    metric = _improvement(valid_crops, loss)
    checkpoints = exp / "checkpoints" / "snn"
    teacher = load_separator(exp / "ann") if config.targets == "ann" else None
    choices = convert(
        model, loss, train_crops, valid_crops, config, checkpoints, history, metric, recipe.seed, device, fresh,
        teacher, began,
    )  # fmt: skip
    with torch.no_grad():
        inputs = [
            model.encode(valid_crops[i][0][None])[0] for i in range(min(32, len(valid_crops)))
        ]
    reports = conversion_report(model.network, inputs, choices)
    save_separator(model, folder, report=[r.to_dict() for r in reports])
    return folder, reports


def _analog(ann: Path, recipe: RecipeConfig) -> Separator:
    """The analog separator to train further, or to convert.

    Raises:
        SpikeSepError: it is none, or of another make than the recipe says.
    """
    model = load_separator(ann)
    if model.kind != "ann" or model.network.n_converted:
        raise SpikeSepError(f"{ann}: is converted already; give an analog separator")
    _check_same(ann, "model", asdict(recipe.model), asdict(model.config))
    return model


def _take_over(ann: Path, exp: Path, recipe: RecipeConfig) -> None:
    """Copy an analog separator into an experiment, with the settings and the history of its training where its own kept
    them.

    Raises:
        SpikeSepError: as `_analog`.
    """
    model, kept = _analog(ann, recipe), ann.parent / "settings" / "ann.json"
    if ann.name == "ann" and kept.exists():
        write_json(exp / "settings" / "ann.json", read_json(kept))
        for row in History(ann.parent / "history.csv").read():
            if row.stage == 0:
                History(exp / "history.csv").add(row)
    save_separator(model, exp / "ann")


def _thawed(snn: Path, recipe: RecipeConfig) -> Separator:
    """The converted separator to convert anew from where it stands, at its thresholds; the window may be another.

    Raises:
        SpikeSepError: it is none, or of another make than the recipe says, or learned weights of few bits.
    """
    model, ptl = load_separator(snn), recipe.ptl
    if model.kind != "snn":
        raise SpikeSepError(f"{snn}: does not spike; give a converted separator, or --from-ann")
    _check_same(snn, "model", asdict(recipe.model), asdict(model.config))
    limits = model.network.limits
    kept = {
        name: value for name, value in asdict(model.network.coding).items() if name != "n_steps"
    }
    kept["fan_in"] = limits.fan_in
    _check_same(snn, "ptl", {name: getattr(ptl, name) for name in kept}, kept)
    if limits.weight_bits or ptl.qat_bits or ptl.method != "ptl" or not ptl.discretize:
        raise SpikeSepError(
            f"{snn}: learns on by ptl.method ptl with ptl.discretize, and without qat_bits"
        )
    model.network.thaw()
    return model


def _mean(models: list[Separator], paths: Sequence[Path]) -> Separator:
    """One whose weights are the mean of the others', which learned on from one another or from one that they share.

    Raises:
        SpikeSepError: they did not: their thresholds differ, or the inputs that they gave up.
    """
    first, states = models[0], []
    for model, path in zip(models, paths, strict=True):
        match(model.network, first.network)
        state = model.state_dict()
        for name, tensor in first.state_dict().items():
            chosen = name.endswith((".threshold", ".kept"))
            if chosen and not torch.allclose(state[name].float(), tensor.float(), rtol=1e-5):
                raise SpikeSepError(
                    f"{path}: has another {name} than {paths[0]}; give what learned on from one"
                )
        states.append(state)
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            parameter.copy_(torch.stack([state[name] for state in states]).mean(0))
    return first


def _check_same(path: Path, section: str, ours: dict, theirs: dict) -> None:
    odd = {
        f"{section}.{name}": (theirs[name], wanted)
        for name, wanted in ours.items()
        if theirs[name] != wanted
    }
    if odd:
        differ = ", ".join(f"{name} = {own}, not {wanted}" for name, (own, wanted) in odd.items())
        same = " ".join(f"--{name} {str(own).replace(' ', '')}" for name, (own, _) in odd.items())
        raise SpikeSepError(f"{path}: has {differ}; give its config or {same}, or another network")


def _stems_from(exp: Path, ann: Path) -> bool:
    """Whether `exp/ann` is the separator `ann`, or was trained further from it."""
    path = exp / "settings" / "ann.json"
    begun = read_json(path).get("from_ann") if path.exists() else None
    if begun is not None and ann.is_dir() and begun == _hash_of_weights(ann):
        return True
    one, other = (load_separator(folder).state_dict() for folder in (exp / "ann", ann))
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def _hash_of_weights(*models: Path) -> str:
    return hash_files(
        [model / "model.safetensors" if model.is_dir() else model for model in models]
    )


def _mixtures(data: Path, recipe: RecipeConfig) -> tuple[list[Mixture], list[Mixture], str]:
    """Mixtures of training (none where they are made on the fly) and of validation, and a hash of what is heard."""
    found: dict[str, list[Mixture]] = {"tr": [], "cv": []}
    heard = _heard_on_the_fly(data) if recipe.ann.on_the_fly else ""
    for name in ("cv",) if recipe.ann.on_the_fly else ("tr", "cv"):
        mixtures = read_data_dir(data / name)
        if len(mixtures[0].sources) != recipe.model.n_speakers:
            raise SpikeSepError(
                f"{data / name}: mixtures of {len(mixtures[0].sources)} speakers; set model.n_speakers accordingly"
            )
        found[name], own = find_residuals(mixtures, recipe.model.sample_rate)
        heard += own
    return found["tr"], found["cv"], heard


def _heard_on_the_fly(data: Path) -> str:
    """A hash of the training utterances: their names and lengths, and the files of up to 32 of them."""
    rows = sorted(
        (row for row in read_table(data / UTTERANCE_TABLE) if row.split == "tr"),
        key=lambda row: row.utt_id,
    )
    names = " ".join(f"{row.utt_id} {row.duration:.6f}" for row in rows)
    some = rows[:: -(-len(rows) // 32)] if rows else []
    return hashlib.sha256(names.encode()).hexdigest()[:16] + hash_files([row.path for row in some])


def _tell_residuals(data: Path, train: list[Mixture], valid: list[Mixture]) -> None:
    """Say of each set how many mixtures are not the sum of their sources, and what follows."""
    so = {
        "tr": ", and neither re-paired (ann.remix) nor turned over (ann.channel); "
        "what is only added to the voices can be listed in noise.scp, to have both",
        "cv": "",
    }
    for name, mixtures in (("tr", train), ("cv", valid)):
        if n := sum(mixture.has_residual for mixture in mixtures):
            print(
                f"{data / name}: {n} of {len(mixtures)} mixtures hold more than the sum of their sources; "
                f"they are taken as they are{so[name]}"
            )


def _random_crops(
    data: Path,
    train: list[Mixture],
    recipe: RecipeConfig,
    n_samples: int,
    batch_size: int,
    seed: int,
) -> DataLoader:
    """Batches of training; mixtures that hold more than their sources (`Mixture.has_residual`) keep all of it, and as
    it may be reverberation, their sources are neither re-paired nor turned over."""
    apart = not (recipe.ann.on_the_fly or any(mixture.has_residual for mixture in train))
    collate = Collate(
        apart and recipe.ann.remix, recipe.mixing.snr_db, apart and "polarity" in recipe.ann.channel
    )
    n_workers = n_loader_workers(recipe.launch)
    if recipe.ann.on_the_fly:
        return crop_loader(
            _dynamic_crops(data, recipe, n_samples, seed), batch_size, seed, collate, n_workers
        )
    crops = RandomCrops(train, recipe.model.sample_rate, n_samples, seed)
    return crop_loader(crops, batch_size, seed, collate, n_workers)


def _fixed_crops(
    data: Path, train: list[Mixture], recipe: RecipeConfig, n_samples: int, at_most: int
) -> CropList:
    if recipe.ann.on_the_fly:
        crops = _dynamic_crops(data, recipe, n_samples, recipe.seed + 2)
        return CropList(crops[0, k] for k in range(at_most))
    return FixedCrops(train, recipe.model.sample_rate, n_samples, at_most, recipe.seed)


def _dynamic_crops(data: Path, recipe: RecipeConfig, n_samples: int, seed: int) -> DynamicCrops:
    rows = [row for row in read_table(data / UTTERANCE_TABLE) if row.split == "tr"]
    ann, model = recipe.ann, recipe.model
    return DynamicCrops(
        rows,
        ann.on_the_fly,
        n_speakers=model.n_speakers,
        sample_rate=model.sample_rate,
        n_samples=n_samples,
        snr_db=recipe.mixing.snr_db,
        speeds=ann.speeds,
        by_amount=ann.by_amount,
        effects=ann.channel,
        seed=seed,
    )


def _improvement(crops: FixedCrops, loss: NegativeSiSdr):
    """The metric of the history: SI-SDR improvement over the mixture, dB, from the validation loss alone."""
    pairs = [crops[i] for i in range(len(crops))]
    mixture_loss = np.mean(
        [float(loss(x.expand_as(sources)[None], sources[None])) for x, sources in pairs]
    )
    return lambda estimates, sources, valid_loss: float(mixture_loss - valid_loss)


def _claim(exp: Path, stage: str, settings: dict, data: Path) -> None:
    """Note what a stage depends on, or see that it is the same, as `claim`.

    Raises:
        SpikeSepError: the stage was begun on other data, or with other settings.
    """
    path = exp / "settings" / f"{stage}.json"
    if path.exists():
        before = read_json(path)
        if (
            "heard" not in before
        ):  # an earlier version noted which mixtures there were, not what was heard in them
            settings = {key: value for key, value in settings.items() if key != "heard"}
        if any(key in settings and before.get(key) != settings[key] for key in ("data", "heard")):
            raise SpikeSepError(
                f"{exp}: stage {stage} was begun on other data than {data}; "
                "give the --data that it began with, take another --tag, or delete the folder to start anew"
            )
    claim(exp, stage, settings)


def _settings(data: Path, heard: str, recipe: RecipeConfig, *sections: str) -> dict:
    """What a stage depends on: settings, seed, and which mixtures there are and what they sound like (not where they
    lie)."""
    mixtures = hash_of_lists(data)
    if recipe.ann.on_the_fly:
        ids = [row.utt_id for row in read_table(data / UTTERANCE_TABLE) if row.split == "tr"]
        mixtures += f" {hashlib.sha256(' '.join(ids).encode()).hexdigest()[:16]}"
    return {
        "seed": recipe.seed,
        "data": mixtures,
        "heard": heard,
        "snr_db": recipe.mixing.snr_db,
        **{section: getattr(recipe, section) for section in sections},
    }


def hash_of_lists(data: Path) -> str:
    """Which mixtures of training and validation there are, not where they lie."""
    lists = [data / split / name for split in ("tr", "cv") for name in ("utt2spk", "mixtures.tsv")]
    return hash_files([path for path in lists if path.exists()])
