"""Synthetic speech for tests of corpora."""

import random
from functools import cache

import soundfile

from spikesep.separation.data.corpora import espeak

SPEAKERS = ("robotann", "robotfinn", "robotines", "robotleo")


@cache
def sentences():
    """Three sentences of four synthetic voices, as tuples of samples and sample rate."""
    synthesizer = espeak.Synthesizer()
    voices = [voice for voice in espeak.VOICES if voice.name in SPEAKERS]
    return [
        (synthesizer.speak(text, voice), synthesizer.sample_rate)
        for voice in voices
        for text in espeak.sentences(voice.language, 3, random.Random(0))
    ]


def write_sentences(paths):
    """Write a sentence to each path."""
    for path, (samples, rate) in zip(paths, sentences(), strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)


def write_folder_corpus(root):
    """Write eight speakers with two files each, and the sexes of seven of them."""
    for number in range(8):
        write_sentences([root / f"spk_{number}" / "deep" / f"{n}.flac" for n in range(2)])
    (root / "spk_0" / "notes.txt").write_text("not audio")
    lines = "".join(f"spk_{n}\t{'FM'[n % 2]}\n" for n in range(7))
    (root / "speakers.tsv").write_text("\ufeff" + lines)
    return root
