"""Networks for other programs: NIR graphs for spiking simulators, and ONNX for runtimes."""

from spikesep.spiking.export.nir_in import from_nir
from spikesep.spiking.export.nir_out import to_nir
from spikesep.spiking.export.nir_run import NirRun, input_steps, run_nir

__all__ = ["NirRun", "from_nir", "input_steps", "run_nir", "to_nir"]
