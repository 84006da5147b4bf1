"""Conversion of any torch network in one call."""

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spikesep.errors import SpikeSepError
from spikesep.neuron_options import Reset, conflict
from spikesep.spiking.conversion.all_at_once import AllAtOnce
from spikesep.spiking.conversion.fixed_point import BITS, require_fixed_point, to_fixed_point
from spikesep.spiking.conversion.ptl import ProgressiveTandemLearning, StageEpoch
from spikesep.spiking.from_torch.calibration import calibrate
from spikesep.spiking.from_torch.equivalence import require_foldable
from spikesep.spiking.from_torch.loader_trainer import LoaderTrainer
from spikesep.spiking.from_torch.tracing import from_module
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.signal import Coding, require_finite
from spikesep.tensors import hash_of_tensors, load_tensors, save_tensors

Data = Tensor | Iterable[Tensor] | Iterable[Sequence[Tensor]]
"""Inputs [n, ...], batches of inputs, or batches (input, target) as a `DataLoader` gives them."""
CHUNK = 64
"""Examples in a batch of inputs that come as one tensor."""


def convert(
    model: nn.Module,
    data: Data,
    n_steps: int = 8,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    valid: Iterable[Sequence[Tensor]] | None = None,
    method: Literal["ptl", "all_at_once"] = "ptl",
    percentile: float | str = "auto",
    correct_biases: bool = True,
    deferred: bool = False,
    reset: Reset = "subtract",
    beta: float = 1.0,
    encoding: Literal["constant", "impulse"] = "constant",
    weight_bits: int = 0,
    max_epochs: int = 10,
    patience: int = 3,
    learning_rate: float = 1e-4,
    calibration_batches: int = 16,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[SpikingNetwork, StageEpoch], None] | None = None,
) -> SpikingNetwork:
    """Make a spiking network of a trained torch network, which is unchanged.

    The network is traced and refused by name if a part cannot be converted. The traced network is
    checked to compute the same as the original on the first batch. Without a loss, thresholds and
    biases are calibrated; with one, layers are fine-tuned. `Levels` in place of ReLU give their
    learned steps as thresholds. The choices of thresholds, which
    `conversion_report` takes, are in `choices` of the result.

    Args:
        model: takes one tensor and returns one. Weights of other formats become float32.
        data: inputs to calibrate on; with a loss, batches (input, target) to train on.
        n_steps: encoding time window N_s.
        loss: of predictions and targets; None to calibrate only.
        valid: batches (input, target) that choose the best epoch; None for the first of `data`.
        method: with a loss: layer by layer (progressive tandem learning), or all layers at once.
        percentile: of a layer's activations that sets its upper bound, or "auto" for the one with
            the least error.
        correct_biases: without a loss: correct the mean error of each channel.
        deferred: whether neurons wait for the whole window before they fire.
        reset: whether a spike subtracts the threshold from the potential, or sets it to `zero`.
        beta: share of the potential that a neuron keeps from one step to the next; below 1, it
            leaks (LIF). In integers, 1 - 2^-k.
        encoding: how the input enters: as a `constant` current, or as one `impulse`.
        weight_bits: bits of integer weights, 2 to 8; 0 for float32.
        max_epochs, patience: of a stage.
        learning_rate: of Adam.
        calibration_batches: largest number of batches that thresholds are chosen on.
        checkpoint: file to resume an interrupted fine-tuning from; None for no file.
        on_epoch: called after each epoch; None prints a line.

    Raises:
        NotConvertibleError: a part of the network has no spiking counterpart.
        SpikeSepError: a layer is silent, numbers are not finite, the data do not suit, or options
            of the neurons do not go together.
    """
    if message := conflict(reset, beta, deferred=deferred, weight_bits=weight_bits):
        raise SpikeSepError(message)
    if weight_bits not in (0, *BITS):
        raise SpikeSepError(f"weight_bits {weight_bits}: must be 0 (floating point) or 2 to 8")
    if method not in ("ptl", "all_at_once"):
        raise SpikeSepError(f"method {method}: must be ptl or all_at_once")
    coding = Coding(n_steps, encoding, deferred=deferred, reset=reset, beta=beta)
    inputs = _inputs(data, calibration_batches)
    network = copy.deepcopy(from_module(_in_float32(model), inputs[0]))
    inputs = [x.to(network.readout.synapse.weight) for x in inputs]
    require_foldable(network, inputs[0])
    if weight_bits:
        require_fixed_point(network, coding)
    if loss is None:
        network.choices = calibrate(
            network, inputs, coding, percentile=percentile, correct_biases=correct_biases
        )
    else:
        _require_pairs(data, "data")
        first = list(itertools.islice(data, calibration_batches)) if valid is None else valid
        _require_pairs(first, "valid")
        trainer = LoaderTrainer(network, loss, data, first, inputs, learning_rate)  # type: ignore[arg-type]
        learning = (ProgressiveTandemLearning if method == "ptl" else AllAtOnce)(
            network,
            network,
            trainer,
            coding,
            percentile=percentile,
            discretize=method == "ptl",
            patience=patience,
            max_epochs=max_epochs,
        )
        run = {
            "settings": {"coding": coding.settings(), "percentile": percentile, "method": method},
            "weights": hash_of_tensors(network.state_dict()),
        }
        _fine_tune(learning, checkpoint, run, on_epoch or _print)
        network.choices = learning.choices
    if weight_bits:
        to_fixed_point(network, inputs, weight_bits)
    return network.eval()


def _fine_tune(
    learning: ProgressiveTandemLearning,
    checkpoint: str | Path | None,
    run: dict[str, Any],
    tell: Callable[[SpikingNetwork, StageEpoch], None],
) -> None:
    """Run the learning algorithm, from a checkpoint on if there is one.

    Args:
        learning: the algorithm, on the network as it was traced.
        checkpoint: the file; None for no file.
        run: what a checkpoint must be of to be resumed.
        tell: called after each epoch.
    """
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        device, remedy = learning.network.readout.synapse.weight.device, "delete it to start over"
        saved = load_tensors(path, device, remedy)
        if {name: saved.get(name) for name in run} != run:
            raise SpikeSepError(
                f"{path}: is of another network or of other settings; give another checkpoint"
            )
        learning.load_state_dict(saved["learning"])

    def on_epoch(done: StageEpoch) -> None:
        if path is not None:
            save_tensors(path, run | {"learning": learning.state_dict()})
        tell(learning.network, done)

    learning.on_epoch = on_epoch
    learning.run()


def _print(network: SpikingNetwork, done: StageEpoch) -> None:
    trained = f"training loss {done.train_loss:.4g}, " if done.epoch else ""
    where = f"layer {done.stage + 1}/{len(network)} ({network.names[done.stage]})"
    if network.n_converted > done.stage + 1:
        where = "all layers"
    print(
        f"{where}, epoch {done.epoch}: {trained}validation loss {done.valid_loss:.4g}", flush=True
    )


def _in_float32(model: nn.Module) -> nn.Module:
    """The model itself, or a copy in float32 if it has weights of another format."""
    if not isinstance(model, nn.Module):
        return model
    floats = [p for p in model.parameters() if p.is_floating_point()]
    return model if all(p.dtype == torch.float32 for p in floats) else copy.deepcopy(model).float()


def _inputs(data: Data, most: int) -> list[Tensor]:
    """The first batches of inputs.

    Raises:
        SpikeSepError: there are none, they are no tensors, or they are not finite.
    """
    batches = data.split(CHUNK) if isinstance(data, Tensor) else data
    found = []
    for batch in itertools.islice(batches, most):
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        if not isinstance(x, Tensor):
            raise SpikeSepError(
                f"data: holds {type(x).__name__}; give a tensor, batches of tensors, or batches "
                "(input, target) as a DataLoader gives them"
            )
        require_finite(x.float(), "data")
        found.append(x)
    if not found or not found[0].numel():
        raise SpikeSepError("data: is empty; give inputs of the network")
    return found


def _require_pairs(data: Iterable[Any], name: str) -> None:
    """Check that data can be iterated more than once, for (input, target).

    Raises:
        SpikeSepError: they cannot; names the argument.
    """
    is_once = isinstance(data, Tensor) or iter(data) is data
    if is_once or not isinstance(next(iter(data), None), (tuple, list)):
        raise SpikeSepError(
            f"{name}: fine-tuning needs batches (input, target) that can be read again in each "
            "epoch; give a DataLoader or a list, or leave out the loss"
        )
