"""Expected spikes of layers that round, with a gradient."""

from torch import Tensor

from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.signal import Signal
from spikesep.spiking.synaptic import Synaptic


def step_of(layer: SpikingLayer) -> Tensor:
    """Value of a spike of a layer that rounds or fires, with a gradient where it learns.

    Returns:
        A scalar; with levels [1] or [C].
    """
    return layer.threshold if layer.levels is None else layer.levels.step


class SpikeRate:
    """Observer of one pass: spikes per neuron and time step that its layers will fire.

    Counts are those of rounding; their gradient is straight-through.
    """

    def __init__(self):
        self._spikes: Tensor | float = 0.0
        self._neuron_steps = 0

    @property
    def mean(self) -> Tensor | float:
        """Mean over all neurons that round, and all steps, a scalar in 0..1; 0 without any."""
        return self._spikes / self._neuron_steps if self._neuron_steps else 0.0

    def __call__(
        self, name: str, module: Synaptic, signals: tuple[Signal, ...], out: Signal
    ) -> None:
        """See `spikesep.spiking.network.Observer`."""
        if not isinstance(module, SpikingLayer) or module.mode == "analog":
            return
        counts = module.connectivity.sum_outputs(out.value.float()) / step_of(module)
        self._spikes = self._spikes + counts.sum()
        self._neuron_steps += out.value.numel() * module.coding.n_steps
