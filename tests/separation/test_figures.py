import numpy as np
from PIL import Image

from spikesep.separation import figures


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def test_a_tone_is_a_line_at_its_frequency_and_low_frequencies_lie_below(tmp_path):
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)
    decibels = figures.spectrogram(tone)
    assert np.argmax(decibels[:, decibels.shape[1] // 2]) == 1000 * figures.WINDOW // 8000
    figures.spectrogram_picture(decibels, float(decibels.max()), tmp_path / "s.png")
    image = pixels(tmp_path / "s.png")
    assert image.shape[:2] == decibels.shape
    assert np.argmax(image[:, image.shape[1] // 2].sum(-1)) == decibels.shape[0] - 1 - 1000 * figures.WINDOW // 8000


def test_a_quieter_sound_of_an_example_is_darker(tmp_path):
    noise = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    loud, quiet = figures.spectrogram(noise), figures.spectrogram(0.03 * noise)
    for name, picture in (("loud", loud), ("quiet", quiet)):
        figures.spectrogram_picture(picture, float(loud.max()), tmp_path / f"{name}.png")
    assert pixels(tmp_path / "quiet.png").mean() < 0.6 * pixels(tmp_path / "loud.png").mean()
