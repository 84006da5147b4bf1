"""Means of scores in the groups of the paper's Table 4, as Markdown and as a terminal table.

The scores themselves are computed in `utterance`, one record per mixture.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from spikesep.separation.scoring.metrics import DEFINITION, PESQ_MODES, PESQ_NAMES
from spikesep.spiking.cost import Cost, EnergyReport, energy_report, energy_table
from spikesep.spiking.cost.energy_text import energy_section

GROUPS = {"diff": "Diff.", "same": "Same", "overall": "Overall"}
CONDITIONS = {"closed": "Closed", "open": "Open"}
METHODS = {"mixture": "Mixture", "ann": "ANN", "snn": "SNN"}
METRICS = {
    "si_sdr": "SI-SDR (dB)",
    "si_sdri": "SI-SDRi (dB)",
    "sdr": "SDR (dB)",
    "pesq": "PESQ",
    "stoi": "STOI",
}
DECIMALS = {"pesq": 2, "stoi": 3, "counted": 0}


def group_of(sexes: Sequence[str]) -> str | None:
    """Return `same` if all voices have the same sex, else `diff`.

    Return None if any sex is unknown, or there is one voice.
    """
    if "u" in sexes or len(sexes) < 2:
        return None
    return "same" if len(set(sexes)) == 1 else "diff"


def summarize(records: Sequence[dict], metrics: Iterable[str], mode: str = "") -> dict[str, Any]:
    """Compute mean scores by condition, method, metric and group, and the mean cost.

    Only mixtures of one mode with two voices or more count, except for the cost. `by_voices` has
    the others.

    An utterance for which a metric is undefined with one method is excluded from the means of that
    metric for all methods, so that each column compares the same utterances. It is listed under
    `refused`. A mean over no utterance is None.
    """
    names, everything = ["si_sdr", "si_sdri", *metrics], records
    records = [record for record in records if record["mode"] == mode and record["voices"] > 1]
    refused = {
        name: sorted(record["utt"] for record in records if _is_undefined(record, name))
        for name in names
    }
    summary: dict[str, Any] = {}
    for condition in CONDITIONS:
        chosen = [record for record in records if record["condition"] == condition]
        summary[condition] = {
            method: {name: _means(chosen, method, name) for name in names} for method in METHODS
        }
    summary["cost"] = mean_cost(everything)
    summary["ann_cost"] = mean_ann_cost(everything)
    summary["refused"] = {name: utts for name, utts in refused.items() if utts or name == "pesq"}
    summary["n_utterances"] = {
        condition: {group: len(_select(records, condition, group)) for group in GROUPS}
        for condition in CONDITIONS
    }
    return summary


def energy_of(results: dict[str, Any], table: str) -> tuple[EnergyReport, Cost]:
    """Estimate energies from the counts in results, of this version or an earlier one.

    Args:
        results: contents of `results.json`.
        table: a key of `ENERGY_TABLES`.

    Returns:
        The report per second of audio, and the cost of the spiking separator it is about.
    """
    cost, ann = results["cost"], results.get("ann_cost")
    if "per_second" in cost:
        spiking = Cost.from_dict(cost["per_second"])
    else:
        macs = cost["macs_per_second"]
        kept = cost.get("kept_macs_per_second", macs)
        spiking = Cost(
            macs, kept, cost["analog_macs_per_second"], cost["synops_per_second"], cost["n_steps"]
        )
    analog = Cost.from_dict(ann) if ann else None
    return energy_report(spiking, 1.0, energy_table(table), analog), spiking


def mean_ann_cost(records: Sequence[dict]) -> dict[str, Any]:
    """Compute the operations of the analog separator per second; empty if any record lacks them."""
    if not records or any("ann_cost" not in record for record in records):
        return {}
    total = sum((Cost.from_dict(record["ann_cost"]) for record in records), Cost())
    return asdict(total / sum(record["seconds"] for record in records))


def mean_cost(records: Sequence[dict]) -> dict[str, Any]:
    """Compute the operations of the spiking separator per second of audio, over all utterances."""
    seconds = sum(record["seconds"] for record in records)
    total = sum((Cost.from_dict(record["cost"]) for record in records), Cost())
    fewer = (
        {"kept_macs_per_second": total.kept_macs / seconds}
        if 0 < total.kept_macs < total.macs
        else {}
    )
    return {
        "macs_per_second": total.macs / seconds,
        **fewer,
        "analog_macs_per_second": total.analog_macs / seconds,
        "synops_per_second": total.synops / seconds,
        "synops_ratio": total.synops_ratio,
        "firing_rate": total.firing_rate,
        "n_steps": total.n_steps,
        "per_second": asdict(total / seconds),
    }


def shown_groups(results: dict[str, Any]) -> dict[str, str]:
    """Return the groups to show, with their titles; only `overall` if no sex is known."""
    counts = results["n_utterances"].values()
    known = any(count[group] for count in counts for group in ("diff", "same"))
    return GROUPS if known else {"overall": GROUPS["overall"]}


def format_version(versions: dict[str, str]) -> str:
    """Format the version with the commit, if recorded: `0.1.0 (1234567)`."""
    own, commit = versions["spikesep"], versions.get("commit", "")
    return (
        f"{own} ({commit[:7]}{'-dirty' if commit.endswith('-dirty') else ''})"
        if commit not in ("", own)
        else own
    )


def markdown(results: dict[str, Any], table: str = "45nm") -> str:
    """Return the content of `RESULTS.md`, with the energies of a table of `ENERGY_TABLES`."""
    metrics = _metrics(results)
    groups = shown_groups(results)
    head = ["Cond.", "Method"]
    for name in metrics:  # as in Table 4, the first column of a metric has its name
        first, *others = groups.values()
        head += [f"{METRICS[name]} {first}", *others]
    rows = [[CONDITIONS[c], METHODS[m], *values] for c, m, values in table_rows(results, groups)]
    align = ["---", "---", *["---:"] * (len(head) - 2)]
    lines = ["# Results", "", *(f"| {' | '.join(row)} |" for row in (head, align, *rows)), ""]
    lines += [f"{note}\n" for note in notes(results)]
    lines += ["## Energy\n", *(f"{part}\n" for part in energy_section(*energy_of(results, table)))]
    return "\n".join(lines)


def terminal_table(results: dict[str, Any]) -> Table:
    """Return a table for a terminal with 80 columns, with one row per method and group."""
    groups = shown_groups(results)
    caption = [
        "SI-SDR, SI-SDRi and SDR in dB; means over utterances",
        *results.get("cut_short", []),
    ]
    table = Table(box=box.SIMPLE_HEAD, caption="\n".join(caption))
    for name in ("Cond.", "Method", ""):
        table.add_column(name, no_wrap=True)
    for name in _metrics(results):
        table.add_column(METRICS[name].removesuffix(" (dB)"), justify="right", no_wrap=True)
    previous = None
    for condition, method, values in table_rows(results, groups):
        for k, label in enumerate(groups.values()):
            titles = (
                "" if condition == previous else CONDITIONS[condition],
                "" if k else METHODS[method],
            )
            table.add_row(
                *titles, label, *values[k :: len(groups)], end_section=k == len(groups) - 1
            )
            previous = condition
    return table


def table_rows(
    results: dict[str, Any], groups: Iterable[str] = GROUPS
) -> list[tuple[str, str, list[str]]]:
    """Return rows of condition, method, and the formatted value of each metric and group."""
    return [
        (condition, method, [decimal(results[condition][method][name][group], name)
                             for name in _metrics(results) for group in groups])
        for condition in CONDITIONS for method in METHODS
    ]  # fmt: skip


def decimal(value: float | None, metric: str) -> str:
    """Format a score; an en dash stands for None."""
    if value is None:
        return "–"
    decimals = DECIMALS.get(metric, 1)
    rounded = round(value, decimals) + 0.0  # turns -0.0 into 0.0
    return f"{rounded:.{decimals}f}".replace("-", "−")


def notes(results: dict[str, Any]) -> list[str]:
    """Return the notes below the table, one Markdown paragraph each."""
    cost, versions, machine = results["cost"], results["versions"], results["machine"]
    n = results["n_utterances"]
    known = len(shown_groups(results)) > 1
    sexes = {c: f" ({n[c]['diff']} different sex, {n[c]['same']} same)" if known else "" for c in n}
    counts = ", ".join(f"{CONDITIONS[c].lower()} {n[c]['overall']}{sexes[c]}" for c in n)
    rates = ", ".join(f"{rate:.3f}" for rate in cost["firing_rate"])
    command = f"Command: `{results['command']}`. " if results["command"] else ""
    synops, macs, analog = (
        f"{cost[f'{name}_per_second'] / 1e6:,.1f}" for name in ("synops", "macs", "analog_macs")
    )
    mode = results.get("modes", [""])[0]
    means = f"Means over mixtures of two voices or more{f' ({mode})' if mode else ''}"
    return [
        f"{means if is_mixed(results) else 'Means over utterances'}: {counts}. "
        f"{_voices_note(results)}",
        *results.get("cut_short", []),
        f"{DEFINITION}. SDR is BSS Eval's with 512 taps; PESQ is {pesq_name(results)} (MOS-LQO).",
        f"Encoding time window N_s = {cost['n_steps']} steps. SynOps ratio "
        f"{cost['synops_ratio']:.3f}: {synops} million synaptic operations per second of audio, "
        "where the ANN's separator does "
        f"{macs} million multiply-accumulates; {analog} million of these remain, in the first "
        f"layer of the spiking network.{pruning_note(cost)}",
        f"Mean spikes per neuron and time step, layer by layer: {rates or 'none'}.",
        *(_undefined_note(name, utts) for name, utts in results["refused"].items()),
        f"Seed {results['seed']}. {command}Python {versions['python']}, torch {versions['torch']}, "
        f"spikesep {format_version(versions)}; {machine['processor']}, {machine['cores']} cores. "
        f"Data {results['data_hash'][:12]}.",
    ]


def is_mixed(results: dict[str, Any]) -> bool:
    """Whether there are mixtures that the table leaves out."""
    rows = results.get("by_voices", [])
    return len({row["mode"] for row in rows}) > 1 or any(row["voices"] < 2 for row in rows)


def pesq_name(results: dict[str, Any]) -> str:
    """Return the variant of PESQ, which depends on the sample rate."""
    return PESQ_NAMES[PESQ_MODES.get(results.get("sample_rate", 8000), "nb")]


def pruning_note(cost: dict[str, Any]) -> str:
    """Say how many connections pruning left the spiking network; empty if it was not pruned."""
    kept, macs = cost.get("kept_macs_per_second"), cost["macs_per_second"]
    if not kept:
        return ""
    return (
        f" Conversion left the spiking network {kept / macs:.0%} of the ANN's connections; an ANN "
        f"with only these would do {kept / 1e6:,.1f} million."
    )


def _voices_note(results: dict[str, Any]) -> str:
    if closed_voices_heard(results):
        return "Closed: voices heard in training; open: voices never heard."
    return (
        "Closed: the validation set, which chose the best epochs; open: the test set. "
        "No voice of either was heard in training."
    )


def closed_voices_heard(results: dict[str, Any]) -> bool:
    """Whether training heard the voices of the closed condition."""
    return results.get("closed_voices_heard", True)


def _undefined_note(name: str, utts: list[str]) -> str:
    label = METRICS[name].removesuffix(" (dB)")
    if not utts:
        return f"{label} is defined for every utterance."
    listed = ", ".join(f"`{utt}`" for utt in utts)
    return (
        f"{label} is undefined for {len(utts)} utterances, which are excluded from its means for "
        f"every method: {listed}."
    )


def _metrics(results: dict[str, Any]) -> list[str]:
    return [name for name in METRICS if name in results["closed"]["ann"]]


def _select(records: Sequence[dict], condition: str, group: str) -> list[dict]:
    return [
        r
        for r in records
        if r["condition"] == condition and group in ("overall", group_of(r["sexes"]))
    ]


def _means(records: Sequence[dict], method: str, name: str) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for group in GROUPS:
        values = [
            record["scores"][method][name]
            for record in records
            if record["scores"][method][name] is not None
            and not _is_undefined(record, name)
            and group in ("overall", group_of(record["sexes"]))
        ]
        means[group] = sum(values) / len(values) if values else None
    return means


def _is_undefined(record: dict, name: str) -> bool:
    return any(name in scores["refused"] for scores in record["scores"].values())
