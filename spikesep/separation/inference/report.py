"""Reports of separated recordings: JSON objects, and one line of text for each."""

from dataclasses import asdict, dataclass
from typing import Any

from spikesep.separation.audio.downmix import Channels
from spikesep.separation.audio.files import AudioStream
from spikesep.separation.inference.settings import InferenceSettings, cached_model
from spikesep.separation.tracks.rttm import Turn
from spikesep.spiking.cost import Cost, energy_report, energy_table
from spikesep.spiking.cost.energy_text import energy_phrase

Report = dict[str, Any]
"""JSON object of a recording: `recording`, and either its `voices` with the entries of
`separation_report`, or its `error`, or the reason why it was `skipped`."""


@dataclass(frozen=True)
class Separation:
    """Outcome of separating one recording.

    Attributes:
        seconds: length of the recording.
        scale: common factor by which all voices were attenuated to stay within full scale.
        cost: operations of the separator.
        broken_off: why a live recording ended early; empty if it did not.
        turns: who spoke when in each separated signal; empty if voices do not follow speakers.
        heard: number of voices heard in each separated signal; empty if they were not counted.
    """

    seconds: float
    scale: float
    cost: Cost
    broken_off: str = ""
    turns: tuple[tuple[Turn, ...], ...] = ()
    heard: tuple[int, ...] = ()


def separation_report(
    settings: InferenceSettings,
    sound: AudioStream,
    channels: Channels,
    *,
    separation: Separation,
    elapsed: float,
) -> Report:
    """Build the report entries of a recording that took `elapsed` seconds to separate.

    `channels` are those that were separated, which differ from the requested ones if the channels
    of the recording cancel each other.
    """
    model = cached_model(settings)
    layers = model.separator.network.layers
    return {
        "seconds": separation.seconds,
        "sample_rate": sound.sample_rate,
        "channels": sound.channels,
        "separated": channels,
        "opposite_phase": channels != settings.channels,
        "real_time_factor": elapsed / separation.seconds if separation.seconds else 0.0,
        "network": model.kind,
        "scale": separation.scale,
        "cost": separation.cost.to_dict(),
        "heard": list(separation.heard),
        "turns": [[asdict(turn) for turn in turns] for turns in separation.turns],
        "energy": _energy(settings, separation),
        "engines": {name: layer.ran_on for name, layer in layers.items() if layer.ran_on},
    }


def _energy(settings: InferenceSettings, separation: Separation) -> dict[str, Any]:
    """Energy per second of audio of the arithmetic, empty for an empty recording."""
    if not separation.seconds:
        return {}
    table = energy_table(settings.energy_table)
    report = energy_report(separation.cost, separation.seconds, table)
    return {"summary": energy_phrase(report), **report.to_dict()}


def format_report(report: Report) -> str:
    """Format the report of a separated recording as one line."""
    cost = report["cost"]
    work = f"{cost['macs'] / 1e6:.0f} M MACs"
    if report["network"] == "snn":
        work = f"{cost['synops'] / 1e6:.0f} M SynOps ({cost['synops_ratio']:.2f} of the ANN's MACs)"
    seconds, factor = report["seconds"], report["real_time_factor"]
    notes = [
        f"{seconds:.2f} s at {report['sample_rate']} Hz in {seconds * factor:.2f} s, "
        f"real-time factor {factor:.3f}",
        f"{report['network']} {work}",
    ]
    if report["energy"]:
        notes.append(f"arithmetic {report['energy']['summary']}")
    if report["heard"]:
        numbers = " and ".join(map(str, report["heard"]))
        notes.append(f"heard {numbers} voice{'s' if numbers != '1' else ''}")
    if report["channels"] > 1:
        notes.append(_format_channels(report))
    if report["scale"] < 1:
        notes.append(f"attenuated by {report['scale']:.2f} to stay within full scale")
    line = f"{report['recording']} -> {', '.join(report['voices'])}: {', '.join(notes)}"
    return printable(line)


def _format_channels(report: Report) -> str:
    n, separated = report["channels"], report["separated"]
    if separated == "mix":
        return f"{n} channels averaged"
    if separated == "each":
        return f"{n} channels separately"
    reason = " because the channels cancel when averaged (opposite phase)"
    return f"channel {separated} of {n}{reason if report['opposite_phase'] else ''}"


def printable(text: str) -> str:
    """Escape control characters, so that text with file names stays on one line."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
