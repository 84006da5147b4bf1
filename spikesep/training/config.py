"""Settings of pre-training and conversion: plain records, read without importing torch."""

import os
from dataclasses import dataclass
from typing import Literal

from spikesep.checks import check, check_whole
from spikesep.errors import SpikeSepError


@dataclass
class PretrainConfig:
    """How the analog network is trained.

    Attributes:
        epochs: most passes over the training list.
        batch_size: examples a step, over all processes together: their number does not change what is learned.
        optimizer: `adam`, or `muon`, which turns each kernel's gradient into an orthogonal matrix and gets further in
            the same time.
        learning_rate: Adam's step size after warm-up; Muon's steps are scaled to it.
        warmup_steps: steps over which the learning rate rises from zero.
        schedule: `plateau` halves the rate when validation has not improved for `halve_patience` epochs (the paper);
            `cosine` holds it, then lets it fall to zero over the last part of the run (best for a short, fixed run).
        cosine_from: share of the run after which `cosine` starts to fall.
        halve_patience: epochs without improvement before `plateau` halves.
        stop_patience: epochs without improvement before training stops (with `plateau`).
        clip_norm: largest gradient norm.
        precision: `auto` takes bf16 autocast where the processor computes in it, float32 elsewhere.
        max_minutes: time budget of the whole command, loading and validation included, over all its starts. Training
            ends within an epoch when it is spent; `cosine` then follows the clock.
    """

    epochs: int = 40
    batch_size: int = 8
    optimizer: Literal["adam", "muon"] = "adam"
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    schedule: Literal["plateau", "cosine"] = "plateau"
    cosine_from: float = 0.5
    halve_patience: int = 3
    stop_patience: int = 10
    clip_norm: float = 5.0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    max_minutes: float | None = None

    def __post_init__(self):
        check(
            "ann",
            self,
            epochs="at least 1",
            batch_size="at least 1",
            learning_rate="positive",
            warmup_steps="not negative",
            cosine_from="between 0 and 1",
            halve_patience="at least 1",
            stop_patience="at least 1",
            clip_norm="positive",
            max_minutes="positive",
        )


@dataclass
class ConversionConfig:
    """How the trained network is converted (paper, section 4 and Algorithm 1).

    Attributes:
        method: `ptl`, progressive tandem learning; or what the paper compares it with, all layers at once in one stage
            (with the settings of the first): `tandem`, tandem learning from end to end; `surrogate`, learning through
            time; `rate`, no learning (give it many steps, percentile 99.9 or 100, and an initial potential of 0).
        n_steps: encoding time window N_s.
        percentile: of all activations of a layer, taken as their upper bound (section 3.3); `auto` takes, per layer,
            the one whose clipping and rounding leave the least squared error at this N_s.
        discretize: from the first stage on, layers not yet converted already round to the levels that spikes will have
            (eq. 10), so that all layers learn together what rounding does; false leaves them analog, as the paper does.
        gradient: of a layer that rounds or spikes: that of its `relu`, as in the paper, or `clipped`, which is zero
            where the layer is at its upper bound; few steps on a task that wants precision learn better with it.
        qat_bits: of weights and biases, imposed on each layer at its stage (quantization-aware training, section 4.3);
            0 for float32.
        fan_in: most inputs of a neuron. 0 for any number.
        pruning: how those past that limit are given up: by `magnitude`, at its stage a layer keeps the strongest; or
            `refit`, in all layers before the first stage: each keeps those that its potential misses most, with weights
            fitted to the analog network's potential, and all layers learn together without the others. It wants more
            `calibration_examples`, frames or pixels counted one by one, than a neuron has inputs: many times more.
        synops_budget: synaptic operations a MAC of the analog network: before the first stage, and at its end, spikes
            are allotted to channels so that predictions change least; with `refit` those inputs go before, too, that
            are not worth their spikes. It wants layers that round; 0 leaves each channel its scale.
        encoding: how the analog input enters the first layer: a `constant` current, or one `impulse` at t = 1.
        initial_potential: V[0] in units of the threshold: 0.5 rounds, 0 (the paper) floors.
        deferred: neurons fire when all spikes of the window have arrived: no error of timing, a window of latency more
            a layer.
        synops_weight: added to the loss for each synaptic operation a MAC of the analog network, in the loss's own
            units: neurons learn to fire less, and the best epoch is the best with its cost. It works where layers round
            or spike.
        patience: T_p, epochs without improvement before a stage ends.
        max_epochs: most epochs of one stage; 0 converts without fine-tuning.
        first_stage_epochs: most epochs of the first stage, in which all layers still learn; null for `max_epochs`.
        optimizer: of all stages, as in pre-training.
        ema_decay: 0 takes the weights as steps leave them. Else an epoch ends at their running mean, in which a step
            counts this factor less than the next, and the next epoch goes on from where steps had come to: few examples
            a step leave weights scattered, and a network that rounds is sensitive to that. After Polyak and Juditsky,
            "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30 (4), 1992.
        first_stage_learning_rate: its step size there; it falls to zero over the most epochs, along a half cosine.
        learning_rate: its step size in all later stages; it falls likewise.
        batch_size: examples a step.
        calibration_examples: of the fixed training examples at most so many, over which the percentiles are taken,
            spikes and connections weighed, and weights fitted anew and rounded.
        cache_gib: memory for the spikes of the frozen prefix. What finds no room is computed anew in each step.
        cache_disk_gib: of the disk that holds the checkpoints, for spikes that find no room in memory.
        weight_bits: of the finished network's fixed-point form, 2..8; 0 leaves it in floating point.
        clip_norm: largest gradient norm.
        precision: of what still learns, as in pre-training; what is frozen always runs in float32.
        max_minutes: time budget of the whole conversion, over all its starts, shared by the stages in proportion to
            the steps that each may train. A stage ends within an epoch when its share is spent, and the learning rate
            has fallen by then; where nothing is left, layers are converted without training.
    """

    method: Literal["ptl", "tandem", "surrogate", "rate"] = "ptl"
    n_steps: int = 8
    percentile: float | Literal["auto"] = "auto"
    discretize: bool = True
    gradient: Literal["relu", "clipped"] = "relu"
    qat_bits: int = 0
    fan_in: int = 0
    pruning: Literal["magnitude", "refit"] = "magnitude"
    synops_budget: float = 0.0
    encoding: Literal["constant", "impulse"] = "constant"
    initial_potential: float = 0.5
    deferred: bool = False
    synops_weight: float = 0.0
    patience: int = 3
    max_epochs: int = 100
    first_stage_epochs: int | None = None
    optimizer: Literal["adam", "muon"] = "adam"
    ema_decay: float = 0.0
    first_stage_learning_rate: float = 1e-3
    learning_rate: float = 1e-4
    batch_size: int = 8
    calibration_examples: int = 64
    cache_gib: float = 4.0
    cache_disk_gib: float = 0.0
    weight_bits: int = 8
    clip_norm: float = 5.0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    max_minutes: float | None = None

    def __post_init__(self):
        check(
            "ptl",
            self,
            qat_bits="not negative",
            fan_in="not negative",
            ema_decay="between 0 and 1",
            initial_potential="between 0 and 1",
            synops_budget="not negative",
            synops_weight="not negative",
            patience="at least 1",
            max_epochs="not negative",
            first_stage_epochs="not negative",
            learning_rate="positive",
            first_stage_learning_rate="positive",
            batch_size="at least 1",
            calibration_examples="at least 1",
            cache_gib="not negative",
            cache_disk_gib="not negative",
            clip_norm="positive",
            max_minutes="positive",
        )
        check_whole("ptl", self, n_steps=(1, 2**16))
        if self.weight_bits not in (0, 2, 3, 4, 5, 6, 7, 8):
            raise SpikeSepError(
                f"--ptl.weight_bits {self.weight_bits}: must be 0 (floating point) or 2..8"
            )
        if 0 < self.weight_bits < self.qat_bits:
            raise SpikeSepError(
                f"--ptl.weight_bits {self.weight_bits}: must be 0 (floating point) or as many as --ptl.qat_bits, "
                f"{self.qat_bits}, at least"
            )
        if self.percentile != "auto" and not 0 < self.percentile <= 100:
            raise SpikeSepError(
                f"--ptl.percentile {self.percentile}: must be auto, or above 0 and at most 100"
            )
        if self.qat_bits and not 2 <= self.qat_bits <= 16:
            raise SpikeSepError(
                f"--ptl.qat_bits {self.qat_bits}: must be 2 to 16, or 0 for float32"
            )
        if self.deferred and self.method == "surrogate":
            raise SpikeSepError(
                "--ptl.deferred: learning through time needs neurons that fire in time"
            )
        if (self.qat_bits or self.fan_in) and self.method != "ptl":
            raise SpikeSepError(
                f"--ptl.method {self.method}: qat_bits and fan_in are imposed by ptl alone"
            )
        if self.synops_budget and (self.method != "ptl" or not self.discretize):
            raise SpikeSepError(
                "--ptl.synops_budget: is allotted by ptl.method ptl with ptl.discretize; give both"
            )
        if self.synops_budget and self.qat_bits:
            raise SpikeSepError(
                "--ptl.synops_budget: scales what --ptl.qat_bits holds on a grid; give one of them"
            )
        if self.pruning == "refit" and not self.fan_in:
            raise SpikeSepError(
                "--ptl.pruning refit: gives up inputs past --ptl.fan_in; give that, too"
            )


@dataclass
class LaunchConfig:
    """Where a command computes.

    Attributes:
        n_gpus: accelerators of one machine; pre-training takes all of them, conversion one; 0 computes on the CPU.
        n_processes: training processes of one machine where there is no accelerator; they share its cores.
        n_nodes: machines that train together. With `slurm` the jobs are started there; otherwise start the same command
            on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK in its environment.
        n_jobs: worker processes for work on files, and to make examples for accelerators; 0 takes all cores.
        launcher: `slurm` has training, conversion and scoring run as jobs of the cluster, and waits for them.
        partition: of Slurm; empty for the cluster's own choice.
        minutes: time limit of a Slurm job; at its end it is queued again, and goes on.
        n_shards: Slurm jobs that share the scoring.
    """

    n_gpus: int = 0
    n_processes: int = 1
    n_nodes: int = 1
    n_jobs: int = 0
    launcher: Literal["local", "slurm"] = "local"
    partition: str = ""
    minutes: int = 1440
    n_shards: int = 4

    def __post_init__(self):
        counts = dict.fromkeys(("n_processes", "n_nodes", "minutes", "n_shards"), "at least 1")
        check("launch", self, n_gpus="not negative", n_jobs="not negative", **counts)

    @property
    def local_processes(self) -> int:
        """Training processes of one machine."""
        return self.n_gpus or self.n_processes


def is_first_process() -> bool:
    """Whether this is the process of a training that writes files and prints; any other command is, too.

    Told by what launchers leave in the environment, as it must be known long before torch is there.
    """
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)
