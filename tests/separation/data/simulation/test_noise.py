import numpy as np
import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import write_wav
from spikesep.separation.data.simulation.noise import NoiseLibrary
from spikesep.separation.data.simulation.noise_files import hold_out, list_noise

RATE = 8000


def write_files(root, names):
    for name in names:
        write_wav(root / name, np.full(80, 0.1, np.float32), RATE)
    return root


def held_and_training(entry):
    return list_noise([entry], held_out=True), list_noise([entry], held_out=False)


def test_folder_is_split_by_names_alone(tmp_path):
    names = [f"{kind}/{k}.wav" for kind in "ab" for k in range(20)]
    one, other = (write_files(tmp_path / where, names) for where in ("one", "two"))
    held, training = held_and_training(f"folder:{one}")
    assert len(held) == 4
    assert not set(held) & set(training)
    assert len(held) + len(training) == 40
    moved = list_noise([f"folder:{other}"], held_out=True)
    assert [p.relative_to(other) for p in moved] == [p.relative_to(one) for p in held]


def test_wham_keeps_its_own_sets(tmp_path):
    root = write_files(tmp_path / "wham_noise", ["tr/a.wav", "tr/b.wav", "cv/c.wav", "tt/d.wav"])
    for entry in (f"wham:{root}", f"wham:{tmp_path}"):
        held, training = held_and_training(entry)
        assert [path.name for path in training] == ["a.wav", "b.wav"]
        assert [path.name for path in held] == ["c.wav", "d.wav"]


def test_of_musan_only_the_noise_is_used(tmp_path):
    root = write_files(
        tmp_path / "musan",
        ["noise/free-sound/n1.wav", "noise/sound-bible/n2.wav", "music/x/m.wav", "speech/y/s.wav"],
    )
    held, training = held_and_training(f"musan:{root}")
    found = held + training
    assert {path.name for path in found} == {"n1.wav", "n2.wav"}


def test_environments_of_demand_are_held_out_as_a_whole(tmp_path):
    names = [
        f"{place}_16k/{place}/ch{k:02d}.wav" for place in ("DKITCHEN", "NPARK") for k in (1, 2)
    ]
    held, training = held_and_training(f"demand:{write_files(tmp_path, names)}")
    assert len(held) == len(training) == 1
    assert {path.parent.name for path in held + training} == {"DKITCHEN", "NPARK"}
    assert {path.name for path in held + training} == {"ch01.wav"}


def test_groups_are_not_divided():
    files = [(f"group{k % 5}", f"{k}") for k in range(50)]
    training, held = hold_out(files)
    assert len(held) == 10
    assert len({int(name) % 5 for name in held}) == 1
    assert hold_out(files[::-1]) == (training, held)


def test_missing_noise_is_one_line_with_the_remedy(tmp_path):
    for entry, message in {
        "folder:": "nothing is not a folder",
        f"folder:{tmp_path / 'absent'}": "absent is not a folder",
        f"folder:{tmp_path}": "0 noise recordings in the layout folder.*give a folder of audio",
        f"musan:{tmp_path}": "give the folder musan",
        f"other:{tmp_path}": "other is none of folder, wham, musan, demand",
    }.items():
        with pytest.raises(SpikeSepError, match=f"noise.recordings {entry}: .*{message}") as error:
            list_noise([entry], held_out=False)
        assert "\n" not in str(error.value)


@pytest.fixture
def recordings(tmp_path):
    """A tone of 1 kHz as noise, and a voice of 300 Hz, 1.5 s each at 16 kHz."""
    time = np.arange(24000) / 16000
    for name, hz in (("noise", 1000), ("voice", 300)):
        samples = 0.3 * np.sin(2 * np.pi * hz * time)
        write_wav(tmp_path / f"{name}.wav", samples.astype(np.float32), 16000)
    return [tmp_path / "noise.wav"], [tmp_path / "voice.wav"]


def peak_hz(samples):
    return np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples))))) * RATE / len(samples)


@pytest.mark.parametrize("kind", ["recorded", "coloured", "speech_shaped", "babble"])
def test_every_kind_is_normalized_and_reproducible(recordings, kind):
    library = NoiseLibrary([kind], *recordings, RATE)
    for n_samples in (4000, 4001, 20000):
        noise = library.draw(np.random.default_rng(3), n_samples)
        assert noise.shape == (n_samples,)
        assert np.square(noise).mean() == pytest.approx(1)
        np.testing.assert_array_equal(noise, library.draw(np.random.default_rng(3), n_samples))
    assert not np.array_equal(noise, library.draw(np.random.default_rng(4), n_samples))


def test_recordings_are_heard_at_several_speeds(recordings):
    library = NoiseLibrary(["recorded"], *recordings, RATE)
    found = {round(peak_hz(library.draw(np.random.default_rng(k), 8000)), -1) for k in range(40)}
    assert {800, 900, 1000, 1100, 1250} <= found


def test_shaped_noise_and_babble_have_the_spectrum_of_voices(recordings):
    for kind in ("speech_shaped", "babble"):
        noise = NoiseLibrary([kind], *recordings, RATE).draw(np.random.default_rng(0), 8000)
        assert peak_hz(noise) == pytest.approx(300, abs=35)


def test_coloured_noise_falls_by_0_to_6_db_per_octave():
    slopes = []
    for seed in range(30):
        noise = NoiseLibrary(["coloured"], [], [], RATE).draw(np.random.default_rng(seed), 16000)
        power = np.square(np.abs(np.fft.rfft(noise)))
        octaves = [power[low : 2 * low].mean() for low in (250, 500, 1000, 2000, 4000)]
        slopes.append(np.polyfit(range(5), 10 * np.log10(octaves), 1)[0])
    assert -6.6 < min(slopes) < -4.5
    assert -1.5 < max(slopes) < 0.6


def test_silent_and_unreadable_recordings(tmp_path):
    write_wav(tmp_path / "silent.wav", np.zeros(4000, np.float32), RATE)
    library = NoiseLibrary(["recorded"], [tmp_path / "silent.wav"], [], RATE)
    assert np.square(library.draw(np.random.default_rng(0), 400)).mean() == pytest.approx(1)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    library = NoiseLibrary(["recorded"], [tmp_path / "broken.wav"], [], RATE)
    with pytest.raises(SpikeSepError, match=r"broken\.wav: .*; "):
        library.draw(np.random.default_rng(0), 400)
