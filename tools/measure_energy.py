"""Operations and energy of the shipped model on LibriSpeech voices that it never heard.

python tools/measure_energy.py --librispeech DIR
"""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import soundfile

import spikesep
from spikesep.separation.audio.resampling import resample
from spikesep.separation.scoring.results import pruning_note
from spikesep.spiking.cost import ENERGY_TABLES, Cost, energy_report
from spikesep.spiking.cost.energy_text import energy_section

VOICES = ("1081", "1098", "2384", "1183", "307", "198", "2911", "2391")
"""Speakers whom egs/free-2mix holds out with seed 0, alternately a man and a woman."""


def main() -> None:
    """Separate four mixtures with both networks and print the energy section of the card."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--librispeech", type=Path, required=True, help="folder of LibriSpeech")
    parser.add_argument("--energy-table", choices=list(ENERGY_TABLES), default="45nm")
    options = parser.parse_args()
    if not any(options.librispeech.glob(f"*/{VOICES[0]}/*/*.flac")):
        parser.error(f"--librispeech {options.librispeech}: no subset with speaker {VOICES[0]}")
    mixtures = mixtures_of(options.librispeech)
    seconds = sum(len(mixture) for mixture in mixtures) / 8000
    costs = {network: cost_of(network, mixtures) for network in ("snn", "ann")}
    cost = costs["snn"] / seconds
    kept = {"macs_per_second": cost.macs, "kept_macs_per_second": cost.kept_macs}
    print(f"{len(mixtures)} mixtures, {seconds:.1f} s; {cost.synops / 1e6:,.1f} M SynOps,")
    print(
        f"ratio {cost.synops_ratio:.3f}, {cost.analog_macs / 1e6:,.1f} M MACs.{pruning_note(kept)}"
    )
    report = energy_report(costs["snn"], seconds, ENERGY_TABLES[options.energy_table], costs["ann"])
    print("", *energy_section(report, costs["snn"]), sep="\n\n")


def mixtures_of(librispeech: Path) -> list[np.ndarray]:
    """Mix the first utterances of each pair of voices at equal power and 8 kHz."""
    files = [sorted(librispeech.glob(f"*/{voice}/*/*.flac"))[0] for voice in VOICES]
    sounds = [resample(samples, rate, 8000) for samples, rate in map(soundfile.read, files)]
    mixtures = []
    for one, other in zip(sounds[::2], sounds[1::2], strict=True):
        n = min(len(one), len(other))
        mixtures.append(
            (0.05 * (one[:n] / one[:n].std() + other[:n] / other[:n].std())).astype(np.float32)
        )
    return mixtures


def cost_of(network: str, mixtures: list[np.ndarray]) -> Cost:
    """Add up the costs of all mixtures."""
    model = spikesep.load_model("free-2mix", network)
    return sum((model.separate_recording(each, 8000).cost for each in mixtures), Cost())


if __name__ == "__main__":
    main()
