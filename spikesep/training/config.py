"""Settings of pre-training and conversion, importable without torch."""

import os
from dataclasses import dataclass, field
from typing import Literal

from spikesep.checks import check, check_whole
from spikesep.errors import SpikeSepError
from spikesep.hardware_profiles import PROFILES
from spikesep.neuron_options import conflict
from spikesep.training.levels_config import LevelsConfig


@dataclass
class PretrainConfig:
    """Training of the analog network.

    Attributes:
        epochs: maximum number of epochs.
        batch_size: examples per step, summed over all training processes.
        optimizer: `adam`; `muon`, which orthogonalizes the update of each weight matrix; or `sgd`
            with Nesterov momentum of 0.9.
        learning_rate: peak learning rate. `muon` scales its updates to the size of Adam's, so both
            take similar rates; `sgd` needs its own.
        weight_decay: L2 penalty on weight matrices and kernels, for `adam` and `sgd`.
        warmup_steps: steps of linear learning-rate warm-up.
        schedule: `plateau` halves the learning rate after `halve_patience` epochs without a
            better validation loss, as in the paper's speech task; `step` divides it by 10 in the
            middle of the run, as in the paper's image tasks; `cosine` keeps it constant, then
            decays it to zero at the end of the run; `triangular` lets it fall linearly from the
            end of warm-up to zero (one cycle, if warm-up is long).
        cosine_from: fraction of the run at which `cosine` starts to decay.
        halve_patience: epochs without improvement before `plateau` halves the learning rate.
        stop_patience: epochs without improvement before `plateau` stops training.
        ema_decay: decay per step of an exponential moving average of the weights, with which the
            network is validated and kept; 0 disables averaging.
        precision: `float32`, `bf16` autocast, or `auto`, which is bf16 on processors that have
            instructions for it.
        max_minutes: wall-clock budget of the command over all its restarts, including loading
            and validation. Training stops within an epoch when it runs out, and all schedules but
            `plateau` follow the clock.
        levels: activations with the levels of spike counts.
    """

    epochs: int = 40
    batch_size: int = 8
    optimizer: Literal["adam", "muon", "sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_steps: int = 200
    schedule: Literal["plateau", "step", "cosine", "triangular"] = "plateau"
    cosine_from: float = 0.5
    halve_patience: int = 3
    stop_patience: int = 10
    ema_decay: float = 0.0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    max_minutes: float | None = None
    levels: LevelsConfig = field(default_factory=LevelsConfig)

    def __post_init__(self):
        check(
            "train",
            self,
            epochs="at least 1",
            batch_size="at least 1",
            learning_rate="positive",
            weight_decay="not negative",
            warmup_steps="not negative",
            cosine_from="between 0 and 1",
            halve_patience="at least 1",
            stop_patience="at least 1",
            ema_decay="between 0 and 1",
            max_minutes="positive",
        )
        if self.weight_decay and self.optimizer == "muon":
            raise SpikeSepError("--train.weight_decay: needs --train.optimizer adam or sgd")


@dataclass
class SynopsConfig:
    """Cost of the converted network in synaptic operations.

    Attributes:
        synops: synaptic operations per multiply-accumulate of the analog network. Before and
            after the first stage, spikes are allotted to channels within this budget such that
            predictions change least; with `pruning: refit`, inputs that are not worth their spikes
            are removed first. Needs `discretize`; 0 disables the budget.
        synops_weight: weight, in the loss, of synaptic operations per multiply-accumulate of the
            analog network. The best epoch is selected by the loss including this term. Only layers
            that are discretized or spiking contribute.
    """

    synops: float = 0.0
    synops_weight: float = 0.0

    def __post_init__(self):
        check("convert.budget", self, synops="not negative", synops_weight="not negative")


@dataclass
class CacheConfig:
    """Storage for the spikes of frozen layers. Spikes that do not fit are recomputed in each step.

    Attributes:
        memory_gib: memory for cached spikes, GiB.
        disk_gib: disk space beside the checkpoints for spikes that do not fit in memory, GiB.
    """

    memory_gib: float = 4.0
    disk_gib: float = 0.0

    def __post_init__(self):
        check("convert.cache", self, memory_gib="not negative", disk_gib="not negative")


@dataclass
class ConversionConfig:
    """Conversion of the trained network to spiking neurons (paper, section 4 and Algorithm 1).

    Attributes:
        method: `ptl` converts layer by layer (progressive tandem learning). The others convert all
            layers in one stage, for comparison: `tandem` (end-to-end tandem learning), `surrogate`
            (surrogate gradients through time) and `rate` (no fine-tuning; use many time steps,
            percentile 99.9 or 100 and an initial potential of 0).
        n_steps: encoding time window N_s, in time steps.
        percentile: percentile of a layer's activations taken as its upper bound (section 3.3);
            `auto` minimizes the squared error of clipping and rounding for each layer.
        discretize: round the activations of layers not yet converted to the levels of N_s spikes
            (eq. 10) from the first stage on; false leaves them analog, as in the paper.
        gradient: gradient of discretized and spiking layers: `relu`, as in the paper, or
            `clipped`, which is zero at the upper bound and works better with few time steps.
        qat_bits: bits of weights and biases, imposed on each layer at its stage by
            quantization-aware training (section 4.3); 0 for float32.
        fan_in: maximum number of inputs of a neuron; 0 for no limit.
        profile: chip whose published limits to keep (`spikesep.hardware_profiles`): lowers
            `weight_bits`, sets `qat_bits` where it has fewer than 8, and `fan_in`; conversion ends
            with what fits. Empty for none.
        pruning: selection of the inputs to remove when `fan_in` is exceeded: `magnitude` keeps the
            largest weights of each layer at its stage; `refit` prunes all layers before the first
            stage by least squares and refits the remaining weights. `refit` needs many more
            `calibration_examples` (counted in frames or pixels) than a neuron has inputs.
        budget: cost in synaptic operations.
        encoding: input of the first layer: a `constant` current, or one `impulse` at t = 1.
        initial_potential: V[0] in units of the threshold; 0.5 rounds, 0 (the paper) rounds down.
        deferred: neurons fire after receiving all spikes of the window. Removes timing errors and
            adds one window of latency per layer.
        reset: a spike subtracts the threshold from the potential, as in the paper, or sets it to
            `zero`.
        beta: share of the potential that a neuron keeps from one step to the next: 1 is the paper's
            neuron, below 1 it leaks (LIF). With `weight_bits`, 1 - 2^-k.
        patience: epochs without improvement before a stage ends, T_p.
        max_epochs: maximum number of epochs of a stage; 0 converts without fine-tuning.
        first_stage_epochs: maximum number of epochs of the first stage, in which all layers are
            trained; null for `max_epochs`.
        fresh_examples: stages that draw new training examples in each epoch: the `first`, or `all`,
            as in the paper, which recomputes the spikes of frozen layers in every step.
        ema_decay: decay per step of an exponential moving average of the weights, which is used at
            the end of each epoch (Polyak and Juditsky, "Acceleration of stochastic approximation
            by averaging", SIAM J. Control Optim. 30 (4), 1992); 0 disables averaging.
        first_stage_learning_rate: initial learning rate of the first stage; decays to zero along a
            half cosine.
        learning_rate: initial learning rate of the later stages; decays likewise.
        batch_size: examples per step.
        calibration_examples: maximum number of training examples for choosing thresholds,
            allotting spikes, pruning and rounding weights.
        cache: storage for the spikes of frozen layers.
        weight_bits: bits of the integer weights of the finished network, 2 to 8; 0 for float32.
        precision: as in training, for layers that are still trained; frozen layers use float32.
        max_minutes: wall-clock budget of the conversion over all its restarts, shared among the
            stages in proportion to their steps. The learning rate of a stage decays within its
            share; when no time is left, layers are converted without fine-tuning.
    """

    method: Literal["ptl", "tandem", "surrogate", "rate"] = "ptl"
    n_steps: int = 8
    percentile: float | Literal["auto"] = "auto"
    discretize: bool = True
    gradient: Literal["relu", "clipped"] = "relu"
    qat_bits: int = 0
    fan_in: int = 0
    profile: Literal["", "loihi2", "speck", "spinnaker2", "truenorth"] = ""
    pruning: Literal["magnitude", "refit"] = "magnitude"
    budget: SynopsConfig = field(default_factory=SynopsConfig)
    encoding: Literal["constant", "impulse"] = "constant"
    initial_potential: float = 0.5
    deferred: bool = False
    reset: Literal["subtract", "zero"] = "subtract"
    beta: float = 1.0
    patience: int = 3
    max_epochs: int = 100
    first_stage_epochs: int | None = None
    fresh_examples: Literal["first", "all"] = "first"
    ema_decay: float = 0.0
    first_stage_learning_rate: float = 1e-3
    learning_rate: float = 1e-4
    batch_size: int = 8
    calibration_examples: int = 64
    cache: CacheConfig = field(default_factory=CacheConfig)
    weight_bits: int = 8
    precision: Literal["auto", "bf16", "float32"] = "auto"
    max_minutes: float | None = None

    def __post_init__(self):
        check(
            "convert",
            self,
            qat_bits="not negative",
            fan_in="not negative",
            ema_decay="between 0 and 1",
            initial_potential="between 0 and 1",
            patience="at least 1",
            max_epochs="not negative",
            first_stage_epochs="not negative",
            learning_rate="positive",
            first_stage_learning_rate="positive",
            batch_size="at least 1",
            calibration_examples="at least 1",
            max_minutes="positive",
        )
        check_whole("convert", self, n_steps=(1, 2**16))
        if self.profile:
            self._keep_to_profile()
        self._check_bits()
        self._check_method()
        options = {"deferred": self.deferred, "weight_bits": self.weight_bits}
        if message := conflict(self.reset, self.beta, **options):
            raise SpikeSepError(f"--convert.{message}")
        if self.percentile != "auto" and not 0 < self.percentile <= 100:
            raise SpikeSepError(
                f"--convert.percentile {self.percentile}: must be auto, or above 0 and at most 100"
            )
        if self.pruning == "refit" and not self.fan_in:
            raise SpikeSepError(
                "--convert.pruning refit: prunes to --convert.fan_in inputs; give that, too"
            )

    def _keep_to_profile(self) -> None:
        """Lower bits and inputs to what the chip holds."""
        profile = PROFILES[self.profile]
        self.weight_bits = min(self.weight_bits or 8, profile.weight_bits)
        if profile.weight_bits < 8:
            self.qat_bits = min(self.qat_bits or 16, profile.weight_bits)
        if profile.fan_in:
            self.fan_in = min(self.fan_in or profile.fan_in, profile.fan_in)

    def _check_bits(self) -> None:
        if self.weight_bits not in (0, 2, 3, 4, 5, 6, 7, 8):
            raise SpikeSepError(
                f"--convert.weight_bits {self.weight_bits}: must be 0 (floating point) or 2..8"
            )
        if 0 < self.weight_bits < self.qat_bits:
            raise SpikeSepError(
                f"--convert.weight_bits {self.weight_bits}: must be 0 (floating point) or at "
                f"least --convert.qat_bits, {self.qat_bits}"
            )
        if self.qat_bits and not 2 <= self.qat_bits <= 16:
            raise SpikeSepError(
                f"--convert.qat_bits {self.qat_bits}: must be 2 to 16, or 0 for float32"
            )

    def _check_method(self) -> None:
        if self.deferred and self.method == "surrogate":
            raise SpikeSepError(
                "--convert.deferred: surrogate gradients through time need neurons that fire "
                "within the window; leave it out"
            )
        if (self.qat_bits or self.fan_in) and self.method != "ptl":
            raise SpikeSepError(
                f"--convert.method {self.method}: --convert.qat_bits and --convert.fan_in need "
                "--convert.method ptl"
            )
        if self.budget.synops and (self.method != "ptl" or not self.discretize):
            raise SpikeSepError(
                "--convert.budget.synops: needs --convert.method ptl and --convert.discretize true"
            )
        if self.budget.synops and self.qat_bits:
            raise SpikeSepError(
                "--convert.budget.synops: rescales weights that --convert.qat_bits holds on a "
                "grid; give one of them"
            )


@dataclass
class LaunchConfig:
    """Processes, accelerators and machines of a command.

    Attributes:
        n_gpus: accelerators per machine; conversion uses one of them. 0 computes on the CPU.
        n_processes: training processes per machine when `n_gpus` is 0; they share its cores.
        n_nodes: machines that train together. With `launcher: slurm` they are allocated by Slurm;
            otherwise start the same command on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK
            in its environment.
        n_jobs: worker processes for file processing and, with accelerators, for loading examples;
            0 for one per core.
        launcher: `local`, or `slurm` to run training, conversion and scoring as Slurm jobs and
            wait for them.
        partition: Slurm partition; empty for the cluster's default.
        minutes: time limit of a Slurm job; a job that reaches it is requeued and resumes.
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
        """Number of training processes on one machine."""
        return self.n_gpus or self.n_processes


def is_first_process() -> bool:
    """Return whether this is the training process that writes files and prints.

    True in commands that do not train. Reads the ranks that launchers put into the environment, so
    that it can be called before torch is imported.
    """
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)
