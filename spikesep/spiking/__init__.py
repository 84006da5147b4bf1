"""The spiking core: neurons, convertible layers, engines and conversion. It knows tensors only."""

from spikesep.spiking.conversion.all_at_once import AllAtOnce
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.conversion.ptl import ProgressiveTandemLearning
from spikesep.spiking.conversion.report import LayerReport, conversion_report
from spikesep.spiking.conversion.threshold import choose_threshold
from spikesep.spiking.conversion.time_steps import set_time_steps
from spikesep.spiking.cost import Cost, CostMeter, measure
from spikesep.spiking.export import from_nir, nir_input, run_nir, to_nir
from spikesep.spiking.from_torch.calibration import calibrate
from spikesep.spiking.from_torch.convert import convert
from spikesep.spiking.from_torch.tracing import from_module
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.levels.activation import Levels
from spikesep.spiking.network import NotConvertibleError, SpikingNetwork
from spikesep.spiking.neuron import integrate_and_fire
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal

__all__ = [
    "AllAtOnce",
    "Coding",
    "Cost",
    "CostMeter",
    "HardwareLimits",
    "LayerReport",
    "Levels",
    "NotConvertibleError",
    "ProgressiveTandemLearning",
    "Readout",
    "Signal",
    "SpikingLayer",
    "SpikingNetwork",
    "calibrate",
    "choose_threshold",
    "conversion_report",
    "convert",
    "from_module",
    "from_nir",
    "integrate_and_fire",
    "measure",
    "nir_input",
    "run_nir",
    "set_time_steps",
    "to_fixed_point",
    "to_nir",
]
