"""Energy reports for readers: a leading statement, a Markdown table, and what to know about it."""

from spikesep.spiking.cost.energy import EnergyReport, EnergyRow
from spikesep.spiking.cost.record import Cost


def energy_section(report: EnergyReport, cost: Cost, unit: str = "a second of audio") -> list[str]:
    """Return the Markdown paragraphs on energy.

    Args:
        report: the report.
        cost: the cost behind it, for its conventions.
        unit: what the figures are per.
    """
    return [
        *([lead(report, unit)] if "snn" in report else []),
        energy_markdown(report),
        " ".join(notes(report, cost)),
    ]


def lead(report: EnergyReport, unit: str = "a second of audio") -> str:
    """State first what the SNN takes compared with int8 and the same connections."""
    snn = report["snn"].energy
    pruned = "pruned_ann_int8" in report
    fair = report["pruned_ann_int8" if pruned else "ann_int8"].energy
    subject = "an ANN with the same connections" if pruned else "the ANN"
    parts = [
        f"Estimated energy of the arithmetic of {unit}, both with 8-bit weights and 32-bit sums: "
        f"{_mj(snn)} mJ for the SNN, {_mj(fair)} mJ for {subject}, {_times(fair, snn)}."
    ]
    if "ann_int8_nonzero" in report:
        sparse = report["ann_int8_nonzero"].energy
        parts.append(
            f"The full ANN in int8 takes {_mj(sparse)} mJ if it skips zero activations, "
            f"{_times(sparse, snn)}."
        )
    if "snn_graded" in report:
        graded = report["snn_graded"].energy
        parts.append(
            "An ANN that rounds as the SNN does, has its connections and skips zeros does the "
            f"work of one graded event per active neuron: {_mj(graded)} mJ, "
            f"{_times(graded, snn)}."
        )
    loose = report["ann_float32"].energy
    parts.append(
        f"The ratio to the ANN in float32, {loose / snn:.0f}, says more about float32 than about "
        "spikes."
    )
    return " ".join(parts)


def energy_markdown(report: EnergyReport) -> str:
    """Tabulate the rows, in millions of operations and mJ."""
    head = ["", "multiplications (million)", "additions (million)", "mJ, 32-bit sums"]
    lines = [[*head, "mJ, 8-bit sums"], ["---", *["---:"] * 4]]
    for row in report.rows:
        indent = "&emsp;" if row.part_of else ""
        lines.append([indent + row.label, *_values(row)])
    for key, label in (("ann", "ANN"), ("pruned_ann", "ANN with the SNN's connections"),
                       ("snn", "SNN")):  # fmt: skip
        if key in report.proxies:
            proxy = f"{report.proxies[key] / 1e6:,.1f}"
            lines.append([f"N-DNS power proxy, {label}", "", proxy, "–", "–"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def notes(report: EnergyReport, cost: Cost) -> list[str]:
    """Return sentences on conventions, sources, and what is not counted."""
    said = [
        f"Energies per operation: {report.table.name} ({report.table.source}).",
        "Estimated, not measured. Only arithmetic is counted: no memory, no traffic of spikes, "
        "weights or activations, no control, no sigmoid.",
    ]
    if cost.n_steps:
        said += [
            "In a synaptic operation, a spike adds one weight. Each neuron update takes two "
            "additions (bias or current, threshold), each spike one more.",
            "Pruned connections cost nothing, and neither does finding those that are left.",
            "The N-DNS power proxy is synaptic operations (or multiply-accumulates) plus 10 x "
            "neuron updates, of which an ANN makes one per neuron.",
        ]
    if cost.n_steps and not cost.neurons:
        said.append("Neuron updates are missing: the version that counted left them out.")
    if cost.deferred:
        said.append(
            "A deferred neuron collects the charge of a window and fires in the next one. It is "
            "counted as updated in each of the N_s steps, although it knows its spike count at the "
            "first; a graded event sends that count at once, for one multiply-accumulate per "
            "synapse."
        )
    return said


def energy_phrase(report: EnergyReport) -> str:
    """State the energy in a few words, for one line of text."""
    if "snn" not in report:
        return (
            f"{_mj(report['ann_int8'].energy)} mJ/s in int8, "
            f"{_mj(report['ann_float32'].energy)} in float32"
        )
    key = "pruned_ann_int8" if "pruned_ann_int8" in report else "ann_int8"
    fair = _mj(report[key].energy)
    return f"{_mj(report['snn'].energy)} mJ/s (ANN with its connections, int8: {fair})"


def _values(row: EnergyRow) -> list[str]:
    multiplications = row.operations.multiplications
    eight = "–" if row.energy_8bit_sums is None else _mj(row.energy_8bit_sums)
    return [
        f"{multiplications / 1e6:,.1f}" if multiplications else "",
        f"{row.operations.additions / 1e6:,.1f}",
        _mj(row.energy),
        eight,
    ]


def _times(energy: float, snn: float) -> str:
    """Compare an energy with that of the SNN."""
    if energy >= snn:
        return f"{energy / snn:.1f} times as much as the SNN"
    return f"less than the SNN ({energy / snn:.2f} of it)"


def _mj(energy: float) -> str:
    return f"{energy * 1e3:#.3g}".rstrip(".")
