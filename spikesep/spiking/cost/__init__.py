"""Cost of a network: operations of the ANN and of the SNN, and the energy of their arithmetic."""

from spikesep.spiking.cost.energy import (
    ENERGY_TABLES,
    EnergyReport,
    EnergyTable,
    energy_report,
    energy_table,
)
from spikesep.spiking.cost.estimate import SynopsEstimate
from spikesep.spiking.cost.meter import CostMeter, macs, measure, synops
from spikesep.spiking.cost.record import Cost, Operations

__all__ = [
    "ENERGY_TABLES",
    "Cost",
    "CostMeter",
    "EnergyReport",
    "EnergyTable",
    "Operations",
    "SynopsEstimate",
    "energy_report",
    "energy_table",
    "macs",
    "measure",
    "synops",
]
