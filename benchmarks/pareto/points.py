"""Points of quality over cost, each with its source and command, from three JSON files.

`measured.json` has counted operations of variants on the same mixtures, `recorded.json` what the
pages of the recipes hold, `published.json` what papers report.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from spikesep.spiking.cost import ENERGY_TABLES, Cost, energy_report

RESULTS = Path(__file__).parents[1] / "results" / "pareto"
TABLE = ENERGY_TABLES["45nm"]
MEASURE = "OMP_NUM_THREADS=1 python -m benchmarks.pareto.measure --librispeech DIR --only {}"


@dataclass(frozen=True)
class Point:
    """One way to run one model.

    Attributes:
        key: name in JSON.
        model: the network.
        form: how it is run: number format, spikes, or graded events.
        kind: `snn` spikes, `ann` multiplies, or `published`.
        family: curve that it lies on; empty if it stands alone.
        test_set: scores of different sets are not comparable.
        si_sdri: dB.
        operations: additions a second of sound, one of which belongs to each multiply-accumulate;
            None if unknown.
        millijoules: a second of sound, estimated; None if unknown.
        proxy: N-DNS power proxy, operations a second of sound; None if unknown.
        source: JSON file, page or citation.
        command: makes the figures; empty for published ones.
        note: what deviates.
        error: standard error of the SI-SDR improvement, dB; None if unknown.
    """

    key: str
    model: str
    form: str
    kind: str
    family: str
    test_set: str
    si_sdri: float
    operations: float | None
    millijoules: float | None
    proxy: float | None
    source: str
    command: str = ""
    note: str = ""
    error: float | None = None


def read_points(folder: Path = RESULTS) -> list[Point]:
    """Return all points: measured, recorded, published."""
    measured, recorded, published = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("measured", "recorded", "published")
    )
    points = measured_points(measured)
    for each in recorded["points"]:
        own = {name: value for name, value in each.items() if name != "quotes"}
        points.append(Point(family="", **own))
    for each in published["points"]:
        own = {name: value for name, value in each.items() if name != "citation"}
        macs = own["operations"]
        joules = macs and macs * (TABLE.float32.multiplication + TABLE.float32.addition)
        points.append(
            Point(
                family="",
                source=each["citation"],
                millijoules=joules and joules * 1e3,
                proxy=None,
                **own,
            )
        )
    return points


def measured_points(measured: dict[str, Any]) -> list[Point]:
    """Return the points of the variants: each as spikes, and as what does the same sums."""
    settings, variants = measured["settings"], measured["variants"]
    test_set = f"{settings['count']} aligned mixtures of held-out LibriSpeech voices"
    reports = {
        key: energy_report(Cost.from_dict(found["cost"]), found["seconds"], TABLE)
        for key, found in variants.items()
    }
    points = []
    for key, found in variants.items():
        for form in forms_of(key, found["family"], found["label"]):
            proxies = reports["snn"].proxies | reports[key].proxies  # an ANN has no neurons counted
            row = reports[key][form.row]
            points.append(
                Point(
                    f"{key}/{form.row}",
                    form.model,
                    form.name,
                    "snn" if form.row == "snn" else "ann",
                    form.family,
                    test_set,
                    found["si_sdri"],
                    row.operations.additions,
                    row.energy * 1e3,
                    proxies.get(PROXIES.get(form.row, "")),
                    "benchmarks/results/pareto/measured.json",
                    MEASURE.format(key),
                    form.note,
                    found["standard_error"],
                )
            )
    return points


PROXIES = {"snn": "snn", "ann_float32": "ann", "ann_int8": "ann", "pruned_ann_int8": "pruned_ann"}
"""Name of the N-DNS power proxy of a row of the energy report, where it is defined."""


class Form(NamedTuple):
    """A way to run a variant.

    Attributes:
        row: of its energy report.
        model: name of the network in this form.
        name: of the form.
        family: curve that it lies on.
        note: what deviates.
    """

    row: str
    model: str
    name: str
    family: str
    note: str = ""


def forms_of(key: str, family: str, label: str) -> list[Form]:
    """Return the forms of a variant.

    Rounding to 255 or 127 steps is that of activations of 8 or 7 bits, so these variants stand for
    integer ANNs, whose work is that of one multiply-accumulate per synapse, or per active one.
    """
    if key == "ann":
        return [Form("ann_float32", "ANN", "float32", "ANN")]
    if key == "ann-8bit":
        return [
            Form("ann_int8", "ANN", "int8", "ANN"),
            Form("snn_graded", "ANN", "int8, zeros skipped", "ANN"),
        ]
    if key == "steps-127":
        model, note = "ANN with the SNN's connections", "activations of 7 bits"
        return [
            Form("pruned_ann_int8", model, "int8", "ANN", note),
            Form("snn_graded", model, "int8, zeros skipped", "ANN", note),
        ]
    model = f"{'calibrated ANN' if family.startswith('ANN') else 'SNN'}, {label}"
    return [
        Form("snn", model, "spikes", family),
        Form("snn_graded", model, "graded events", f"{family}, graded"),
    ]


def front(points: list[Point], cost: str) -> set[str]:
    """Return the keys of the points of one test set that none beats in cost and quality.

    Args:
        points: the points; those without this cost are left out.
        cost: name of the attribute, such as `millijoules`.
    """
    known = [point for point in points if getattr(point, cost) is not None]
    return {
        point.key
        for point in known
        if not any(
            getattr(other, cost) <= getattr(point, cost)
            and other.si_sdri >= point.si_sdri
            and (getattr(other, cost), other.si_sdri) != (getattr(point, cost), point.si_sdri)
            for other in known
        )
    }
