"""Simulated mixtures and conversations: voices in rooms, with noise and damage.

A set is written in one version per condition, with the same voices: `clean`, `noise`, `room`,
`both`, `damaged`, which has both and the damage of `mixing.dynamic.damage`, and `varied`, in which
each part occurs as often as in training. Its noises are held out from training, and its rooms are
its own.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import write_if_changed
from spikesep.separation.audio.files import read_audio, to_pcm16
from spikesep.separation.audio.levels import active_level
from spikesep.separation.config import MixingConfig, RecipeConfig
from spikesep.separation.data.corpora.table import SPLITS, UTTERANCE_TABLE, Utterance, read_table
from spikesep.separation.data.mixing.balanced import (
    MAX_PEAK,
    MEAN_LEVEL_DB,
    cut_speech,
    with_polarity,
)
from spikesep.separation.data.mixing.plan import PlannedMixture, Scene, Span, Version
from spikesep.separation.data.simulation.conversation import (
    Turn,
    draw_conversation,
    fade_edges,
    measure_overlap,
)
from spikesep.separation.data.simulation.noise_files import list_noise
from spikesep.separation.data.simulation.simulator import Simulator, at_condition, open_simulator
from spikesep.workers import Workers

MIN_SECONDS = 0.5
"""Shortest rest of a turn for which another utterance begins."""


class SimulatedProcedure:
    """The procedures `simulated`, of voices that talk at once, and `conversation`, in turns.

    Args:
        in_turns: Whether the voices take turns.
    """

    MODES: tuple[str, ...] = ("clean", "noise", "room", "both", "damaged", "varied")

    def __init__(self, in_turns: bool):
        self.in_turns = in_turns

    def check_settings(self, config: MixingConfig, counts: Sequence[int]) -> None:
        """Check the settings of this procedure.

        Raises:
            SpikeSepError: If a setting is out of range or not supported, or noise recordings cannot
                be found.
        """
        low, high = config.snr_db
        dynamic, n_voices = config.dynamic, config.n_speakers
        rules = {
            "--mixing.n_train, n_closed, n_open: 0 mixtures; ask for at least one": min(counts)
            >= 1,
            f"--mixing.max_seconds: {config.max_seconds} s is too short; 4 is usual, 60 for "
            "conversations": config.max_seconds >= 0.5,
            f"--mixing.snr_db: {low} to {high} dB is no range; give the lower end first": low
            <= high,
            f"--mixing.polarity {config.polarity}: simulated voices are as_recorded or "
            "aligned": config.polarity != "opposite",
            f"--mixing.dynamic.voices {dynamic.voices}: there are {n_voices} sources "
            "(mixing.n_speakers); give as many shares at most": len(dynamic.voices) <= n_voices,
        }
        for message, satisfied in rules.items():
            if not satisfied:
                raise SpikeSepError(message)
        list_noise(dynamic.noise.recordings, held_out=True)

    def signal_names(self, n_speakers: int, noisy: bool) -> tuple[str, ...]:
        """Return `mix`, `s1`, `s2` and so on."""
        return ("mix", *(f"s{k + 1}" for k in range(n_speakers)))

    def output_folder(self, data: Path, n_speakers: int, version: Version, split: str) -> Path:
        """Return for example `data/wav/wav8k/noise/<split>`."""
        return data / "wav" / version.label / split

    def plan_set(
        self,
        table: list[Utterance],
        split: str,
        n: int,
        recipe: RecipeConfig,
        data: Path,
        workers: Workers,
    ) -> tuple[list[PlannedMixture], list[str]]:
        """Plan mixtures of a split, and tell how much of the speech overlaps.

        The speakers of a mixture are among those used least.

        Raises:
            SpikeSepError: If there are fewer speakers than a mixture has.
        """
        voices: dict[str, list[Utterance]] = defaultdict(list)
        for row in sorted(table, key=lambda row: row.utt_id):
            if row.split == split:
                voices[row.speaker].append(row)
        if len(voices) < recipe.mixing.n_speakers:
            raise SpikeSepError(
                f"split {split}: {len(voices)} speakers are listed, {recipe.mixing.n_speakers} are "
                "needed; add voices to the corpus"
            )
        planner = _Planner(voices, split, recipe, data.absolute(), self.in_turns)
        plan = sorted((planner.plan(k) for k in range(n)), key=lambda planned: planned.utt_id)
        plan = with_polarity(plan, recipe.mixing.polarity, workers, split)
        self._simulate_rooms(plan[0], recipe)
        spoken = np.sum([measure_overlap(_turns(planned)) for planned in plan], axis=0)
        share = spoken[1] / max(spoken[0], 1e-9)
        return plan, [f"{data / split}: voices overlap in {share:.0%} of the speech"]

    def _simulate_rooms(self, planned: PlannedMixture, recipe: RecipeConfig) -> None:
        """Write the rooms of a set before its workers need them."""
        assert planned.scene is not None
        for rate in recipe.mixing.rates_hz:
            for mode in recipe.mixing.modes or self.MODES[:1]:
                n_voices = recipe.mixing.n_speakers
                _simulator(planned.scene, rate, mode, n_voices, recipe.launch.n_jobs)

    def load_recording(self, path: Path, rates: tuple[int, ...]) -> dict:
        """Read a recording at each rate (Hz), without its mean, and its active level as `level`.

        Raises:
            SpikeSepError: If the recording cannot be read or is silent.
        """
        voice = {rate: read_audio(path, rate) for rate in rates}
        level = active_level(voice[rates[0]], rates[0])
        if not np.isfinite(level):
            raise SpikeSepError(f"{path}: is silent; remove it from the table of utterances")
        return {"level": level} | {rate: own - own.mean() for rate, own in voice.items()}

    def mix(
        self, planned: PlannedMixture, voices: Sequence[dict], version: Version
    ) -> tuple[dict[str, np.ndarray], tuple[float, ...]]:
        """Return int16 samples by signal name, and the common gain after zeros.

        Without noise, room and damage, the mixture is exactly the sum of the sources.
        """
        scene, rate, names = planned.scene, version.rate, planned.voices
        assert scene is not None
        n_samples = round(scene.seconds * rate)
        sources = np.zeros((len(names), n_samples))
        order = [name for name, _ in names]
        signs = planned.signs or (1,) * len(voices)
        for row, span, gain, sign, voice in zip(
            planned.utterances, scene.spans, planned.gains, signs, voices, strict=True
        ):
            start, end = round(span.start * rate), min(round(span.end * rate), n_samples)
            first = round(span.offset * rate)
            segment = cut_speech(row, voice[rate], first, end - start, rate)
            scale = sign * 10 ** ((MEAN_LEVEL_DB + gain - voice["level"]) / 20)
            sources[order.index(row.speaker), start:end] = fade_edges(segment, rate) * scale
        n_present = len(names) - planned.absent
        simulator = _simulator(scene, rate, version.mode, len(names))
        present, rest = simulator.apply(sources[:n_present], np.zeros(n_samples), scene.seed)
        sources[:n_present] = present
        peak = max(np.abs(sources).max(), np.abs(sources.sum(0) + rest).max())
        gain = min(1.0, (MAX_PEAK - len(names) / 32768) / peak)  # rounding may add steps
        pcm = [to_pcm16(source * gain) for source in sources]
        mixture = np.sum(pcm, 0) + np.round(rest * gain * 32768)
        signals = [mixture.astype(np.int16), *pcm]
        gains = (*[0.0] * len(names), gain)
        return dict(zip(self.signal_names(len(names), False), signals, strict=True)), gains

    def write_lists(
        self,
        data: Path,
        split: str,
        plan: Sequence[PlannedMixture],
        version: Version,
        gains: Sequence[tuple[float, ...]],
    ) -> bool:
        """Write `rttm` into the data directory: who speaks when, the same in all conditions.

        Returns:
            Whether the file was changed.
        """
        lines = [
            f"SPEAKER {planned.utt_id} 1 {span.start:.3f} {span.end - span.start:.3f} <NA> <NA> "
            f"{row.speaker} <NA> <NA>\n"
            for planned in plan
            for row, span in zip(planned.utterances, _spans(planned), strict=True)
        ]
        return write_if_changed(data / split / "rttm", "".join(lines).encode())


class _Planner:
    """Draws the mixtures of a set.

    Args:
        voices: Utterances of each speaker of the set.
        split: `tr`, `cv` or `tt`.
        recipe: Settings.
        data: Data folder, absolute.
        in_turns: Whether the voices take turns.
    """

    def __init__(
        self,
        voices: dict[str, list[Utterance]],
        split: str,
        recipe: RecipeConfig,
        data: Path,
        in_turns: bool,
    ):
        self.voices, self.split, self.data, self.in_turns = voices, split, data, in_turns
        self.config, self.seed = recipe.mixing, recipe.seed
        self.used = dict.fromkeys(voices, 0)
        self.decks: dict[str, list[Utterance]] = defaultdict(list)

    def plan(self, index: int) -> PlannedMixture:
        """Draw the mixture of an index; mixtures are drawn in order."""
        seed = (self.seed, SPLITS.index(self.split), index)
        rng = np.random.default_rng(seed)
        speakers = self._draw_speakers(rng)
        rows, spans = self._draw_spans(speakers, rng)
        offset = rng.uniform(*self.config.snr_db) / 2 * rng.choice([-1, 1])
        levels = dict(zip(speakers, offset * (-1.0) ** np.arange(len(speakers)), strict=True))
        seconds = max(span.end for span in spans) if not self.in_turns else self.config.max_seconds
        absent = self.config.n_speakers - len(speakers)
        name = f"{self.split}{index:05d}"
        voices = PlannedMixture(name, name, rows, (), absent=absent).voices
        return PlannedMixture(
            f"{'_'.join(speaker for speaker, _ in voices)}-{index:05d}",
            name,
            rows,
            tuple(float(levels[row.speaker]) for row in rows),
            absent=absent,
            scene=Scene(seconds, spans, seed, self.split, self.config.dynamic, self.data),
        )

    def _draw_speakers(self, rng: np.random.Generator) -> list[str]:
        """Draw speakers among those used least."""
        shares = np.array(self.config.dynamic.voices or [0.0] * (self.config.n_speakers - 1) + [1])
        count = 1 + int(rng.choice(len(shares), p=shares / shares.sum()))
        order = sorted(self.voices, key=lambda speaker: (self.used[speaker], rng.random()))
        for speaker in order[:count]:
            self.used[speaker] += 1
        return order[:count]

    def _draw_spans(
        self, speakers: Sequence[str], rng: np.random.Generator
    ) -> tuple[tuple[Utterance, ...], tuple[Span, ...]]:
        """Draw the utterances of every turn, and the parts of them that are heard."""
        seconds = self.config.max_seconds
        turns = [Turn(k, 0.0, seconds) for k in range(len(speakers))]
        if self.in_turns:
            turns = draw_conversation(rng, len(speakers), seconds, self.config.dynamic.conversation)
            silent = set(range(len(speakers))) - {turn.speaker for turn in turns}
            turns += [Turn(k, 0.0, seconds) for k in sorted(silent)]  # everyone is heard
        heard = [span for turn in turns for span in self._fill(speakers[turn.speaker], turn, rng)]
        rows, spans = zip(*heard, strict=True)
        if not self.in_turns:  # the shortest utterance ends the mixture
            end = min(span.end for span in spans)
            spans = tuple(replace(span, end=end) for span in spans)
        return rows, spans

    def _fill(
        self, speaker: str, turn: Turn, rng: np.random.Generator
    ) -> list[tuple[Utterance, Span]]:
        """Draw an utterance for a turn, or in a conversation as many as fill it."""
        heard, now = [], turn.start
        while not heard or (self.in_turns and turn.end - now > MIN_SECONDS):
            row = self._deal(speaker, rng)
            seconds = min(turn.end - now, row.duration)
            offset = rng.uniform(0, row.duration - seconds)
            heard.append((row, Span(now, now + seconds, offset)))
            now += seconds
        return heard

    def _deal(self, speaker: str, rng: np.random.Generator) -> Utterance:
        """Draw an utterance; all of a speaker are used before one is repeated."""
        deck = self.decks[speaker]
        if not deck:
            rows = self.voices[speaker]
            deck.extend(rows[k] for k in rng.permutation(len(rows)))
        return deck.pop()


def _spans(planned: PlannedMixture) -> tuple[Span, ...]:
    assert planned.scene is not None
    return planned.scene.spans


def _turns(planned: PlannedMixture) -> list[Turn]:
    speakers = [name for name, _ in planned.voices]
    return [
        Turn(speakers.index(row.speaker), span.start, span.end)
        for row, span in zip(planned.utterances, _spans(planned), strict=True)
    ]


_simulators: dict[str, Simulator] = {}
"""Simulators of this process."""


def _simulator(
    scene: Scene, rate: int, condition: str, n_voices: int, n_jobs: int = 1
) -> Simulator:
    """Return the simulator of a set and a condition, which is opened once per process."""
    key = repr((scene.data, scene.split, scene.seed[0], scene.config, rate, condition, n_voices))
    if key not in _simulators:
        table = read_table(scene.data / UTTERANCE_TABLE)
        _simulators[key] = open_simulator(
            scene.data,
            at_condition(scene.config, condition),
            [row.path for row in table if row.split == "tr"],
            n_voices=n_voices,
            sample_rate=rate,
            level_db=MEAN_LEVEL_DB,
            split=scene.split,
            seed=scene.seed[0],
            n_jobs=n_jobs,
        )
    return _simulators[key]
