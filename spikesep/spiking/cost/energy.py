"""Energy of the arithmetic of a network, estimated from its operations and a table of energies.

`energy_report` is the one function behind every energy that this project prints. It lists the ANN
in several forms, the SNN under several conventions, and what both have in common. Only arithmetic
is counted: no memory, no traffic of spikes or weights, no control, no leakage.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from spikesep.errors import SpikeSepError
from spikesep.spiking.cost.record import Cost, Operations

NEURON_OPERATIONS = 10
"""Synaptic operations that one neuron update is worth in the power proxy of the Intel N-DNS
challenge (Timcheck et al., 2023)."""


class Arithmetic(NamedTuple):
    """Energy of one operation in a number format, J."""

    multiplication: float
    addition: float


@dataclass(frozen=True)
class EnergyTable:
    """Energies of arithmetic operations in one process.

    Attributes:
        name: name of the process, as options take it.
        float32, int8, int32: energies by number format.
        source: where the figures come from.
    """

    name: str
    float32: Arithmetic
    int8: Arithmetic
    int32: Arithmetic
    source: str


ENERGY_TABLES = {
    "45nm": EnergyTable(
        "45nm",
        float32=Arithmetic(3.7e-12, 0.9e-12),
        int8=Arithmetic(0.2e-12, 0.03e-12),
        int32=Arithmetic(3.1e-12, 0.1e-12),
        source="M. Horowitz, Computing's energy problem, ISSCC 2014",
    ),
    "7nm": EnergyTable(
        "7nm",
        float32=Arithmetic(1.31e-12, 0.38e-12),
        int8=Arithmetic(0.07e-12, 0.007e-12),
        int32=Arithmetic(1.48e-12, 0.03e-12),
        source="N. Jouppi et al., Ten lessons from three generations shaped Google's TPUv4i, ISCA "
        "2021, Table 2",
    ),
}


def energy_table(name: str) -> EnergyTable:
    """The table of a process.

    Raises:
        SpikeSepError: there is no such table.
    """
    if name not in ENERGY_TABLES:
        known = ", ".join(ENERGY_TABLES)
        raise SpikeSepError(f"--energy-table {name}: there is no such table; give one of {known}")
    return ENERGY_TABLES[name]


@dataclass(frozen=True)
class EnergyRow:
    """One way to run a network, or a part of one.

    Attributes:
        key: name in JSON.
        label: name for readers.
        operations: multiplications and additions, per second of sound or per image.
        energy: J, with sums in 32 bits.
        energy_8bit_sums: J, if sums fitted into 8 bits; None for float32.
        part_of: key of the row that this row is a part of; empty if it stands alone.
    """

    key: str
    label: str
    operations: Operations
    energy: float
    energy_8bit_sums: float | None = None
    part_of: str = ""


@dataclass(frozen=True)
class EnergyReport:
    """Operations and energies of a network in all its forms.

    Attributes:
        table: energies of an operation.
        rows: the forms and their parts. What was not counted has no row.
        proxies: power proxy of the N-DNS challenge, operations, for `ann`, `pruned_ann` and `snn`.
    """

    table: EnergyTable
    rows: tuple[EnergyRow, ...]
    proxies: dict[str, float]

    def __getitem__(self, key: str) -> EnergyRow:
        return next(row for row in self.rows if row.key == key)

    def __contains__(self, key: str) -> bool:
        return any(row.key == key for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; energies in joules."""
        return {
            "table": self.table.name,
            "source": self.table.source,
            "rows": [asdict(row) for row in self.rows],
            "ndns_power_proxy": self.proxies,
        }


def energy_report(
    cost: Cost, per: float, table: EnergyTable = ENERGY_TABLES["45nm"], ann: Cost | None = None
) -> EnergyReport:
    """Turn a measured cost into rows of operations and energy.

    Args:
        cost: cost of the spiking or the analog network.
        per: seconds of sound, or images, that it was measured on.
        table: energies of an operation.
        ann: measured cost of the analog network, if `cost` is that of the spiking one, for its
            zero activations; over as many seconds or images.

    Returns:
        Rows whose counts `cost` and `ann` contain.
    """
    cost = cost / per
    ann = cost if not cost.n_steps else ann and ann / per
    rows = _Rows(table)
    _add_ann(rows, cost, ann)
    if cost.n_steps:
        _add_snn(rows, cost)
        _add_alternatives(rows, cost)
    for name, label in (("encoder", "encoder and norm"), ("decoder", "masks and decoder")):
        if (operations := getattr(cost, name)) is not None:
            rows.add(name, f"{label}, of either network, float32", operations, "float32")
    return EnergyReport(table, tuple(rows.rows), _proxies(cost))


class _Rows:
    def __init__(self, table: EnergyTable):
        self.table, self.rows = table, []

    def add(
        self,
        key: str,
        label: str,
        operations: Operations,
        multiply: Literal["float32", "int8", "int32"] = "int8",
        part_of: str = "",
    ) -> None:
        """Add a row; integers are added in 32 bits, in the second column in 8 bits."""
        energies = [
            operations.multiplications * getattr(self.table, multiply).multiplication
            + operations.additions * sums.addition
            for sums in (self.table.int32, self.table.int8)
        ]
        if multiply == "float32":
            energies = [
                operations.multiplications * self.table.float32.multiplication
                + operations.additions * self.table.float32.addition,
                None,
            ]
        self.rows.append(EnergyRow(key, label, operations, *energies, part_of=part_of))


def _add_ann(rows: _Rows, cost: Cost, ann: Cost | None) -> None:
    rows.add("ann_float32", "ANN, float32", Operations.macs(cost.macs), "float32")
    rows.add("ann_int8", "ANN, int8", Operations.macs(cost.macs))
    if ann is not None and ann.active_macs is not None:
        active = Operations.macs(ann.active_macs)
        rows.add("ann_int8_nonzero", "ANN, int8, zero activations skipped", active)
    if 0 < cost.kept_macs < cost.macs:
        kept = Operations.macs(cost.kept_macs)
        rows.add("pruned_ann_int8", "ANN with the SNN's connections, int8", kept)


def _add_snn(rows: _Rows, cost: Cost) -> None:
    """Add the SNN, every neuron updated in every step, and its parts."""
    first, arriving = Operations.macs(cost.analog_macs), Operations(0.0, cost.synops)
    updates = _of_updates(cost, cost.neuron_updates)
    whole = first + arriving + updates
    rows.add("snn", "SNN", whole)
    rows.add("snn_first_layer", "first layer, analog input", first, part_of="snn")
    if cost.readout_synops is None:
        rows.add("snn_synops", "synaptic operations", arriving, part_of="snn")
    else:
        hidden = Operations(0.0, cost.synops - cost.readout_synops)
        readout = Operations(0.0, cost.readout_synops)
        rows.add("snn_synops", "synaptic operations of the layers", hidden, part_of="snn")
        rows.add("snn_readout", "synaptic operations of the readout", readout, part_of="snn")
    if cost.neurons:
        rows.add("snn_neurons", "neuron updates, in every step", updates, part_of="snn")
    if cost.leaky:  # a multiplication instead
        whole += Operations(cost.neuron_updates, -cost.neuron_updates)
    rows.add("snn_float32", "SNN, float32", whole, "float32")


def _add_alternatives(rows: _Rows, cost: Cost) -> None:
    """Add the SNN under the conventions that others would choose."""
    first, arriving = Operations.macs(cost.analog_macs), Operations(0.0, cost.synops)
    updates = _of_updates(cost, cost.neuron_updates)
    rows.add("snn_first_32bit", "SNN, first layer multiplies in 32 bits",
             first + arriving + updates, "int32")  # fmt: skip
    if cost.full_synops is not None and cost.full_synops > cost.synops:
        full = first + Operations(0.0, cost.full_synops) + updates
        rows.add("snn_unpruned", "SNN, pruned connections cost as much as others", full)
    if cost.deferred:
        firing = _of_updates(cost, sum(cost.neurons) + sum(cost.spikes))
        rows.add("snn_while_firing", "SNN, neurons updated only until they fall silent",
                 first + arriving + firing)  # fmt: skip
        if cost.active_macs is not None:
            once = Operations(0.0, 2 * sum(cost.neurons))
            graded = Operations.macs(cost.active_macs) + once
            rows.add("snn_graded", "one graded event per active neuron", graded)


def _of_updates(cost: Cost, n: float) -> Operations:
    """Additions of n neuron updates: bias or current, threshold, leak; and one reset per spike.

    A leak of a power of two is a shift, which is not counted, and an addition.
    """
    return Operations(0.0, (3 if cost.leaky else 2) * n + sum(cost.spikes))


def _proxies(cost: Cost) -> dict[str, float]:
    """The power proxy of the N-DNS challenge. An analog neuron is updated once."""
    if not cost.neurons:
        return {}
    once = NEURON_OPERATIONS * sum(cost.neurons)
    pruned = {"pruned_ann": cost.kept_macs + once} if 0 < cost.kept_macs < cost.macs else {}
    spiking = cost.synops + cost.analog_macs + NEURON_OPERATIONS * cost.neuron_updates
    return {"ann": cost.macs + once, **pruned, "snn": spiking}
