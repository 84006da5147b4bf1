import numpy as np
import pytest
from helpers.sound.speech import sentences

from spikesep.separation.audio.files import write_wav
from spikesep.separation.data.corpora.screening import (
    Recording,
    rejection_reason,
    screen_recordings,
)

RATE = 8000
TIME = np.arange(2 * RATE) / RATE
NOISE = np.random.default_rng(0).standard_normal(2 * RATE)
ON_OFF = (TIME * 4 % 1 < 0.5).astype(float)


def hum(*frequencies):
    return sum(np.sin(2 * np.pi * hz * TIME) for hz in frequencies)


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (0 * TIME, "silence"),
        (1e-3 * NOISE / 5, "silence"),
        (NOISE, "steady"),
        (hum(440), "steady"),
        (hum(50, 100, 150), "steady"),
        (hum(350, 440), "steady"),
        (hum(1400) * ON_OFF, "tone"),
        (hum(480, 620) * ON_OFF, "tone"),
        (hum(300) * (TIME < 0.7) + hum(900) * (TIME > 1.0), "tone"),
        (NOISE * ON_OFF, "noise"),
    ],
)
def test_tones_noise_and_silence_are_rejected(signal, reason):
    gain = 1.0 if reason == "silence" else 0.3 / np.abs(signal).max()
    assert rejection_reason((gain * signal).astype(np.float32), RATE) == reason


@pytest.mark.parametrize("gain", [1.0, 0.02])
@pytest.mark.parametrize("hiss", [0.0, 0.003])
def test_speech_is_accepted_loud_or_soft_clean_or_noisy(gain, hiss):
    for samples, rate in sentences():
        noise = hiss * np.random.default_rng(1).standard_normal(len(samples)).astype(np.float32)
        assert rejection_reason(gain * (samples + noise), rate) is None


def test_short_and_unreadable_files_and_copies_are_rejected(tmp_path):
    (one, rate), (other, _) = sentences()[:2]
    dither = np.random.default_rng(0).uniform(-1, 1, len(one)).astype(np.float32) / 20000
    write_wav(tmp_path / "a.wav", one, rate)
    write_wav(tmp_path / "b-louder.wav", np.clip(1.4 * one, -1, 1), rate)
    write_wav(tmp_path / "c-dither.wav", np.clip(one + dither, -1, 1), rate)
    write_wav(tmp_path / "d-later.wav", np.concatenate([np.zeros(400, np.float32), one]), rate)
    write_wav(tmp_path / "e.wav", other, rate)
    write_wav(tmp_path / "f-short.wav", one[:rate], rate)
    (tmp_path / "g-text.wav").write_text("no audio")
    (tmp_path / "h-link.wav").symlink_to(tmp_path / "e.wav")
    found = [Recording(path, path.stem, "ann", "f") for path in tmp_path.iterdir()]
    kept, left_out = screen_recordings(found, 1.5, n_jobs=1)
    assert [item.utt_id for item in kept] == ["ann-a", "ann-e"]
    assert left_out == {"copy": 3, "short": 1, "unreadable": 1}
    assert kept[0].duration == len(one) / rate
    others = [
        Recording(path, path.stem, path.stem, "f")
        for path in (tmp_path / "a.wav", tmp_path / "c-dither.wav")
    ]
    assert len(screen_recordings(others, 1.5, n_jobs=1)[0]) == 2  # copies of two speakers stay


def test_names_that_reduce_to_one_id_are_numbered(tmp_path):
    found = []
    for (samples, rate), name in zip(sentences(), ("é a", "e/a", "_a_", "é.a"), strict=False):
        path = tmp_path / f"{len(found)}.wav"
        write_wav(path, samples, rate)
        found.append(Recording(path, name, "ann", "f"))
    kept, _ = screen_recordings(found, 0.5, n_jobs=1)
    assert [item.utt_id for item in kept] == ["ann-a", "ann-e_a", "ann-a-2", "ann-a-3"]
