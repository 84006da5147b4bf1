"""Settings of training with the levels of spike counts, importable without torch."""

from dataclasses import dataclass
from typing import Literal

from spikesep.checks import check, check_whole
from spikesep.errors import SpikeSepError


@dataclass
class LevelsConfig:
    """Activations with the levels of spike counts, from the first step of training on.

    Attributes:
        n_steps: activations take N_s + 1 values: 0 to N_s times a step that is learned. Conversion
            takes the steps as thresholds. It is exact with the same number in `convert.n_steps`,
            deferred neurons and float weights. 0 trains with ReLU, as in the paper.
        kind: what is learned: `qcfs` learns the upper bound, N_s steps (Bu et al., ICLR 2022);
            `lsq` the step, by a gradient scaled down by the number of neurons and levels (Esser et
            al., ICLR 2020).
        per: one step per `layer`, or per `channel`, which conversion turns into weights; `channel`
            does not work with identity paths of the kind `sum`.
        shift: activation, in steps, that is added before rounding down: 0.5 rounds to nearest.
            Give `convert.initial_potential` the same value.
        spike_price: price of the expected spikes per neuron and time step, added to the loss, which
            also selects the best epoch.
        target_rate: target for the spikes per neuron and time step. Only spikes above it have a
            price. The price starts at `spike_price`, or 1, rises while the network fires more than
            the target, and falls while it fires less. 0 prices all spikes alike.
    """

    n_steps: int = 0
    kind: Literal["qcfs", "lsq"] = "qcfs"
    per: Literal["layer", "channel"] = "layer"
    shift: float = 0.5
    spike_price: float = 0.0
    target_rate: float = 0.0

    def __post_init__(self):
        check_whole("train.levels", self, n_steps=(0, 2**16))
        check(
            "train.levels",
            self,
            shift="between 0 and 1",
            spike_price="not negative",
            target_rate="between 0 and 1",
        )
        if not self.n_steps and (self.spike_price or self.target_rate):
            raise SpikeSepError(
                "--train.levels.spike_price and --train.levels.target_rate: need "
                "--train.levels.n_steps, the number of time steps"
            )
