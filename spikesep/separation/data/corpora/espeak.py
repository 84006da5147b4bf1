"""Synthetic voices, for machines that cannot fetch real ones.

eSpeak NG, whose library and data are installed from a wheel, speaks generated sentences in several
languages, as speakers of different pitch, pace and vocal tract. Results on these robotic voices
prove that the tools work, and little more.
"""

import ctypes
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import atomic_path
from spikesep.separation.audio.files import write_wav
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.screening import Recording
from spikesep.separation.data.corpora.table import speaker_id
from spikesep.workers import parallel_map

SENTENCES_PER_VOICE = 60


@dataclass(frozen=True)
class SyntheticVoice:
    """A synthetic speaker.

    Attributes:
        name: Speaker id.
        sex: `f` or `m`.
        language: eSpeak's name of the language.
        variant: eSpeak's name of the voice variant.
        pitch: 0 to 100, where 50 is the variant's own.
        pace: Words per minute.
        unseen: Whether the voice is reserved for the open condition.
    """

    name: str
    sex: str
    language: str
    variant: str
    pitch: int
    pace: int
    unseen: bool = False


VOICES = (
    SyntheticVoice("robotann", "f", "en-us", "f1", 55, 165),
    SyntheticVoice("robotbea", "f", "de", "f2", 70, 150),
    SyntheticVoice("robotcleo", "f", "es", "f3", 45, 175),
    SyntheticVoice("robotdina", "f", "fr", "f4", 60, 160),
    SyntheticVoice("robotemil", "m", "en-gb-x-rp", "m1", 40, 160),
    SyntheticVoice("robotfinn", "m", "de", "m3", 30, 170),
    SyntheticVoice("robotgino", "m", "it", "m4", 50, 155),
    SyntheticVoice("robothugo", "m", "es", "m7", 60, 165),
    SyntheticVoice("robotines", "f", "it", "f5", 50, 160, unseen=True),
    SyntheticVoice("robotjane", "f", "en-gb-x-rp", "f2", 40, 170, unseen=True),
    SyntheticVoice("robotkurt", "m", "fr", "m2", 45, 160, unseen=True),
    SyntheticVoice("robotleo", "m", "en-us", "m5", 25, 150, unseen=True),
)

PHRASES = {
    "en": (
        (
            "The old sailor", "My younger sister", "A tired baker", "The quiet neighbour",
            "Our first teacher", "The tall guard",
        ),
        ("carries", "has forgotten", "is looking for", "will repair", "never mentions", "paints"),
        (
            "a wooden ladder", "the silver clock", "three yellow apples", "an empty suitcase",
            "the longest letter", "her violin",
        ),
        (
            "behind the station", "before the rain begins", "on a Sunday morning",
            "without saying why", "near the river",
        ),
    ),
    "de": (
        (
            "Der alte Gärtner", "Meine Nachbarin", "Ein müder Fahrer", "Die junge Ärztin",
            "Unser Onkel", "Das kleine Mädchen",
        ),
        ("sucht", "verkauft", "zeichnet", "vergisst", "findet", "bringt"),
        (
            "einen blauen Schirm", "das schwere Buch", "zwei frische Brote", "die leere Tasche",
            "den letzten Brief",
        ),
        (
            "hinter dem Bahnhof", "an jedem Dienstag", "ohne ein Wort", "vor dem großen Regen",
            "in der neuen Küche",
        ),
    ),
    "es": (
        (
            "El viejo pescador", "Mi hermana menor", "Una vecina amable", "El nuevo cartero",
            "La directora", "Nuestro primo",
        ),
        ("busca", "ha perdido", "quiere vender", "dibuja", "recuerda", "lleva"),
        (
            "una silla de madera", "el reloj de plata", "tres naranjas dulces",
            "la carta más larga", "un sombrero verde",
        ),
        (
            "detrás de la iglesia", "cada domingo por la tarde", "sin decir nada",
            "cerca del río", "antes de la lluvia",
        ),
    ),
    "fr": (
        (
            "Le vieux boulanger", "Ma petite sœur", "Une voisine discrète", "Le nouveau facteur",
            "La voyageuse", "Notre oncle",
        ),
        ("cherche", "a retrouvé", "veut réparer", "dessine", "oublie", "porte"),
        (
            "une échelle en bois", "la montre en argent", "trois pommes jaunes",
            "un long message", "le chapeau vert",
        ),
        (
            "derrière la gare", "tous les lundis matin", "sans dire pourquoi",
            "au bord de la rivière", "avant la pluie",
        ),
    ),
    "it": (
        (
            "Il vecchio pescatore", "Mia sorella", "Una vicina gentile", "Il nuovo maestro",
            "La viaggiatrice", "Nostro cugino",
        ),
        ("cerca", "ha perduto", "vuole vendere", "disegna", "ricorda", "porta"),
        (
            "una sedia di legno", "l'orologio d'argento", "tre mele gialle",
            "la lettera più lunga", "un cappello verde",
        ),
        (
            "dietro la stazione", "ogni domenica mattina", "senza dire niente", "vicino al fiume",
            "prima della pioggia",
        ),
    ),
}  # fmt: skip
"""Phrases by language: subjects, verbs, objects and adverbials.

Any choice of the four is a sentence.
"""


def recordings(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> list[Recording]:
    """List the recordings of all voices, and synthesize those that are missing.

    Files are stored in `downloads/espeak/seed<seed>/<voice>/`.

    Raises:
        SpikeSepError: If a configured voice is not in `VOICES`, or the library is missing or fails.
    """
    wanted = {speaker_id(name) for name in [*config.seen_speakers, *config.unseen_speakers]}
    unknown = sorted(wanted - {voice.name for voice in VOICES})
    if unknown:
        known = ", ".join(voice.name for voice in VOICES)
        raise SpikeSepError(
            f"--corpus.seen_speakers: no synthetic voice {unknown[0]}; choose from {known}"
        )
    home = downloads.resolve() / "espeak" / f"seed{seed}"
    missing = [voice for voice in VOICES if not (home / voice.name).is_dir()]
    speak = partial(speak_voice, home=home, seed=seed, count=SENTENCES_PER_VOICE)
    # The library keeps state, so only fresh processes give reproducible recordings.
    parallel_map(speak, missing, n_jobs, "speaking", chunk=1, fresh=True)
    return [
        Recording(path, path.stem, voice.name, voice.sex, voice.unseen)
        for voice in VOICES
        for path in sorted((home / voice.name).glob("*.wav"))
    ]


def sentences(language: str, count: int, rng: random.Random) -> list[str]:
    """Generate `count` different texts; every second one has two sentences, to vary the length."""
    parts = PHRASES[language[:2]]
    texts: dict[str, None] = {}
    while len(texts) < count:
        spoken = [" ".join(rng.choice(part) for part in parts) for _ in range(1 + len(texts) % 2)]
        texts[". ".join(spoken) + "."] = None
    return list(texts)


def speak_voice(voice: SyntheticVoice, home: Path, seed: int, count: int) -> None:
    """Write `count` texts as wav files into `home/<voice>/`, atomically."""
    texts = sentences(voice.language, count, random.Random(f"{voice.name} {seed}"))
    synthesizer = Synthesizer()
    with atomic_path(home / voice.name) as folder:
        for number, text in enumerate(texts):
            samples = synthesizer.speak(text, voice)
            write_wav(folder / f"{number:03d}.wav", samples, synthesizer.sample_rate)


class Synthesizer:
    """C interface (speak_lib.h) of libespeak-ng, which has one global state per process.

    Raises:
        SpikeSepError: If the library is missing or does not start.
    """

    SYNCHRONOUS = 2
    RATE, PITCH = 1, 3
    POSITION_CHARACTER = 1
    CHARS_UTF8 = 1

    def __init__(self):
        try:
            import espeakng_loader

            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
            data = str(espeakng_loader.get_data_path()).encode()
        except (ImportError, OSError) as error:
            raise SpikeSepError(
                f"corpus espeak: no library ({error}); pip install espeakng-loader"
            ) from error
        self.sample_rate = self._library.espeak_Initialize(self.SYNCHRONOUS, 0, data, 0)
        if self.sample_rate <= 0:
            raise SpikeSepError(
                "corpus espeak: the library does not start; reinstall espeakng-loader"
            )
        self._blocks: list[np.ndarray] = []
        callback_type = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._callback = callback_type(self._receive)  # referenced as long as the library calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count: int, events) -> int:
        if samples and count:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / 32768)
        return 0

    def speak(self, text: str, voice: SyntheticVoice) -> np.ndarray:
        """Synthesize a text as float32 samples [T] at `sample_rate`.

        Raises:
            SpikeSepError: If the library lacks the voice or returns nothing.
        """
        name = f"{voice.language}+{voice.variant}"
        if self._library.espeak_SetVoiceByName(name.encode()):
            raise SpikeSepError(
                f"corpus espeak: the library lacks the voice {name}; reinstall espeakng-loader"
            )
        self._library.espeak_SetParameter(self.PITCH, voice.pitch, 0)
        self._library.espeak_SetParameter(self.RATE, voice.pace, 0)
        self._blocks.clear()
        encoded = text.encode() + b"\0"
        size, flags = ctypes.c_size_t(len(encoded)), self.CHARS_UTF8
        self._library.espeak_Synth(encoded, size, 0, self.POSITION_CHARACTER, 0, flags, None, None)
        if not self._blocks:
            raise SpikeSepError(
                f"corpus espeak: the voice {name} stays silent; reinstall espeakng-loader"
            )
        return np.concatenate(self._blocks)
