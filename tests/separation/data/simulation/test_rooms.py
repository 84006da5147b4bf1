import numpy as np
import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.data.simulation import rooms
from spikesep.separation.mixing_config import RoomsConfig

pytest.importorskip("pyroomacoustics", reason="needs the extra train")
RATE = 8000


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    config = RoomsConfig(probability=1.0, rt60=(0.2, 0.6), n_rooms=3)
    return open_bank(folder, config), folder, config


def open_bank(folder, config, seed="tr 0"):
    return rooms.open_room_bank(folder, config, sample_rate=RATE, n_voices=2, seed=seed, n_jobs=1)


def test_schroeder_integration_measures_a_known_decay():
    time = np.arange(RATE) / RATE
    noise = np.random.default_rng(0).normal(size=RATE)
    assert rooms.measure_rt60(noise * 10 ** (-3 * time / 0.4), RATE) == pytest.approx(0.4, rel=0.03)


@pytest.mark.parametrize("rt60", [0.25, 0.4, 0.7])
def test_rooms_have_the_wanted_reverberation_time(rt60):
    for index in range(2):
        responses = rooms.simulate_room(
            index, rt60=(rt60, rt60), sample_rate=RATE, n_voices=2, seed="0"
        )
        measured = np.mean([rooms.measure_rt60(response, RATE) for response in responses])
        assert measured == pytest.approx(rt60, rel=0.15)


def test_beginning_of_a_response_is_the_image_method_of_one_reflection_each():
    """Plain loops over the images of a box, at the nearest sample, correlate with the response."""
    rng = np.random.default_rng(1)
    room = rooms.draw_room(rng, (0.4, 0.4), 1)
    n = rooms.DIRECT + round(0.02 * 48000)
    response = rooms._image_responses(room, 48000, n)[0]
    voice, size = room.voices[0], np.array(room.size)
    surface = 2 * (size * np.roll(size, 1)).sum()
    reflection = np.sqrt(1 - 0.161 * size.prod() / (surface * room.rt60))  # by Sabine's formula
    direct = np.linalg.norm(voice - room.microphone)
    expected = np.zeros(n)
    orders = range(-3, 4)
    for shift in np.stack(np.meshgrid(orders, orders, orders), -1).reshape(-1, 3):
        image = np.where(shift % 2, (shift + 1) * size - voice, shift * size + voice)
        distance = np.linalg.norm(image - room.microphone)
        delay = rooms.DIRECT + distance / 343 * 48000 - int(direct / 343 * 48000)
        if delay < n - 1:
            gain = reflection ** np.abs(shift).sum() / distance
            expected[int(delay)] += gain * (1 - delay % 1)
            expected[int(delay) + 1] += gain * (delay % 1)
    similarity = expected @ response / np.linalg.norm(expected) / np.linalg.norm(response)
    assert similarity > 0.92


def test_direct_sound_comes_first_and_voices_differ(bank):
    responses = bank[0].responses
    assert responses.dtype == np.float32
    for room in responses:
        energy = np.square(room)
        assert (energy[:, : rooms.DIRECT - 8].sum(1) < 0.05 * energy.sum(1)).all()
        assert (energy[:, rooms.DIRECT - 2 : rooms.DIRECT + 4].sum(1) > 0.01 * energy.sum(1)).all()
        assert not np.allclose(room[0], room[1], atol=0.05)


def test_parts_add_up_to_the_whole_convolution(bank):
    rng = np.random.default_rng(0)
    voices = rng.normal(size=(2, 1200))
    early, late = bank[0].reverberate(voices, np.random.default_rng(5))
    draws = np.random.default_rng(5)
    room = bank[0].responses[draws.integers(3)][draws.permutation(2)]
    total = np.zeros(1200)
    for voice, response, part in zip(voices, room, early, strict=True):
        only_early = np.where(np.arange(len(response)) < rooms.DIRECT + 400, response, 0)
        wanted = np.convolve(voice, only_early)[:1200]
        gain = np.sqrt(np.square(voice).mean() / np.square(wanted).mean())
        np.testing.assert_allclose(part, gain * wanted, atol=1e-4)
        total += gain * np.convolve(voice, response)[:1200]
    np.testing.assert_allclose(early.sum(0) + late, total, atol=1e-3)


def test_silent_voice_stays_silent(bank):
    early, late = bank[0].reverberate(np.zeros((2, 400)), np.random.default_rng(0))
    assert not early.any()
    assert not late.any()


def test_bank_is_read_again_and_follows_from_its_seed(bank):
    first, folder, config = bank
    assert len(list(folder.glob("*.npy"))) == 1
    np.testing.assert_array_equal(open_bank(folder, config).responses, first.responses)
    assert len(list(folder.glob("*.npy"))) == 1
    again = rooms.simulate_room(1, rt60=(0.2, 0.6), sample_rate=RATE, n_voices=2, seed="tr 0")
    np.testing.assert_array_equal(again, first.responses[1])
    other = rooms.simulate_room(1, rt60=(0.2, 0.6), sample_rate=RATE, n_voices=2, seed="tt 0")
    assert not np.array_equal(other, again)


def test_missing_library_is_named_unless_the_bank_exists(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "find_spec", lambda name: None)
    _, folder, config = bank
    open_bank(folder, config)
    with pytest.raises(SpikeSepError, match=r"rooms: pyroomacoustics is not installed; install"):
        open_bank(tmp_path, config)
