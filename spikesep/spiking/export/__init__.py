"""Networks for other programs: NIR graphs for spiking simulators, and ONNX for runtimes."""

from spikesep.spiking.export.nir_in import from_nir
from spikesep.spiking.export.nir_out import to_nir
from spikesep.spiking.export.nir_run import NirRun, nir_input, run_nir

__all__ = ["NirRun", "from_nir", "nir_input", "run_nir", "to_nir"]
