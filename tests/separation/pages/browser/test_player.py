import io
import time
import zipfile

import numpy as np
import pytest
import soundfile
from helpers.web.browser import (
    DOMINANT,
    SECONDS,
    TAP,
    download,
    drop,
    position,
    ready,
    tone,
    until,
    wait_for_playback,
)


def test_switching_sounds_keeps_the_position(visit, listening_page):
    page = visit(listening_page)
    player = ready(page)
    player.get_by_label("Repeat").check()
    assert position(page) == 0
    player.get_by_role("button", name="Play").click()
    page.evaluate(TAP)
    heard, pictures = {}, {}
    for label in ("voice 1, reference", "voice 2, reference", "voice 1, SNN", "the mixture"):
        until(lambda: 0 < position(page) < SECONDS / 2)  # well before it repeats
        player.locator(".choice", has=page.get_by_role("radio", name=label)).click()
        (before, at), (after, then) = page.evaluate("moments")
        assert before > 0
        assert abs(after - before - (then - at)) < 0.1
        wait_for_playback(page)
        until(lambda: page.evaluate(DOMINANT) > 0)
        time.sleep(0.2)
        heard[label] = page.evaluate(DOMINANT)
        pictures[label] = player.locator(".spectrum").evaluate("canvas => canvas.toDataURL()")
        assert player.locator(".chosen").first.inner_text() == label
    # Between 500 and 850 Hz, despite the smearing by the syllables.
    assert heard["voice 1, reference"] < 675 < heard["voice 2, reference"]
    assert len(set(pictures.values())) == 4
    player.get_by_role("button", name="Pause").click()
    rest = position(page)
    time.sleep(0.1)
    assert position(page) == rest


def test_one_example_plays_at_a_time_and_stops_at_the_end(visit, listening_page):
    page = visit(listening_page)
    ready(page)
    playing = "[...document.querySelectorAll('.player')].map(root => root.player.playing)"
    buttons = page.get_by_role("button", name="Play", exact=True)
    buttons.nth(1).click()
    assert page.evaluate(playing)[:2] == [False, True]
    buttons.first.click()
    assert page.evaluate(playing)[:2] == [True, False]
    page.evaluate("document.querySelector('.player').player.seek(2.9)")
    until(lambda: not any(page.evaluate(playing)))
    assert position(page) == pytest.approx(SECONDS, abs=0.01)


def test_click_on_a_picture_seeks(visit, listening_page):
    page = visit(listening_page)
    player = ready(page)
    for strip in (".wave", ".spectrum", ".spikes img >> nth=1"):
        for share in (0.25, 0.8):
            picture = player.locator(strip)
            width = picture.bounding_box()["width"]
            picture.click(position={"x": share * width, "y": 20})
            box = picture.bounding_box()  # may have scrolled
            assert position(page) == pytest.approx(share * SECONDS, abs=0.02)
            cursor = player.locator(".cursor").bounding_box()
            assert cursor["x"] + cursor["width"] / 2 == pytest.approx(
                box["x"] + share * width, abs=2
            )
            assert (
                cursor["y"]
                < box["y"]
                < box["y"] + box["height"]
                <= cursor["y"] + cursor["height"] + 1
            )


def test_keyboard_controls_the_player(visit, listening_page):
    page = visit(listening_page)
    player = ready(page)
    state = "(({source, playing}) => [source, playing])(document.querySelector('.player').player)"
    player.get_by_role("radio", name="the mixture").focus()
    page.keyboard.press("4")
    assert page.evaluate(state) == ["voice1-snn", False]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(state) == ["voice2-source", False]
    page.keyboard.press("Space")
    assert page.evaluate(state) == ["voice2-source", True]
    page.keyboard.press("7")
    page.keyboard.press("Space")
    assert page.evaluate(state) == ["voice2-snn", False]
    start = position(page)
    page.keyboard.press(".")
    assert position(page) == pytest.approx(start + 1, abs=0.01)
    page.keyboard.press("8")
    assert page.evaluate(state) == ["both", False]
    passed = []
    while not passed or passed[-1] != "play":
        page.keyboard.press("Shift+Tab")
        passed.append(page.evaluate("document.activeElement.className"))
        if passed[-1] == "seek":
            page.keyboard.press("Home")
            assert position(page) == 0
    assert passed == ["whole", "closer", "wider", "repeat", "seek", "play"]


@pytest.mark.parametrize("kind", ["try", "listen"])
def test_voices_play_together_at_the_volumes_of_their_faders(visit, listening_page, service, kind):
    page = visit(listening_page if kind == "listen" else service.url)
    one, two = ("voice1-snn", "voice2-snn") if kind == "listen" else ("voice1", "voice2")
    if kind == "try":
        drop(page, ("talk.wav", tone(3, 8000)))
    player = ready(page)

    def heard(expected):
        found = """() => Object.entries(document.querySelector('.player').player.gains)
          .map(([name, { gain }]) => [name, Math.round(10 * gain.value) / 10])
          .filter(([, gain]) => gain)"""
        until(lambda: dict(page.evaluate(found)) == expected)

    player.get_by_label("Repeat").check()
    player.get_by_role("button", name="Play").click()
    player.locator("input[value=both]").check(force=True)
    heard({one: 1, two: 1})
    player.locator("input[value=mixture]").check(force=True)
    heard({"mixture": 1})
    player.locator(f".fader[data-source={one}]").fill("30")  # also chooses both
    heard({one: 0.3, two: 1})
    player.locator(f".fader[data-source={two}]").fill("0")
    heard({one: 0.3})
    assert player.locator("input[value=both]").is_checked()
    shown = "blend([[Float32Array.of(1, 0.5), 0.5], [Float32Array.of(1, -1), 1]])"
    assert list(page.evaluate(f"[...{shown}]")) == [1.5, -0.75]


def test_zoom_keeps_the_position_and_clicks_seek_in_it(visit, listening_page):
    page = visit(listening_page)
    player = ready(page)
    view = "(({left, span}) => [left, span])(document.querySelector('.player').player.view)"
    width = player.locator(".wave").bounding_box()["width"]
    player.locator(".wave").click(position={"x": width / 2, "y": 20})
    whole = player.locator(".spectrum").evaluate("canvas => canvas.toDataURL()")
    player.get_by_role("button", name="Zoom in").click()
    page.keyboard.press("+")
    assert player.locator(".zoomed").inner_text() == "4×"
    left, span = page.evaluate(view)
    assert span == pytest.approx(SECONDS / 4)
    assert left + span / 2 == pytest.approx(SECONDS / 2, abs=0.01)
    until(lambda: player.locator(".spectrum").evaluate("canvas => canvas.toDataURL()") != whole)
    for strip in (".wave", ".spikes .track >> nth=1"):
        player.locator(strip).click(position={"x": 0.25 * width, "y": 20})
        assert position(page) == pytest.approx(left + span / 4, abs=0.01)
    raster, track = (
        player.locator(f".spikes {part} >> nth=1").bounding_box() for part in ("img", ".track")
    )
    assert raster["width"] == pytest.approx(4 * width, abs=1)
    assert track["x"] - raster["x"] == pytest.approx(4 * width * left / SECONDS, abs=1)
    page.keyboard.press(".")  # beyond the shown range: the pictures follow
    assert page.evaluate(view)[0] > left + span
    for _ in range(3):
        page.keyboard.press("-")
    assert page.evaluate(view) == [0, pytest.approx(SECONDS)]


def test_spectrogram_equals_a_discrete_fourier_transform(visit, service):
    page = visit(service.url)
    rng, rate, columns = np.random.default_rng(0), 8000, 50
    samples = (
        np.sin(2 * np.pi * 1000 * np.arange(2000) / rate) + 0.1 * rng.normal(size=2000)
    ).astype(np.float32)
    found = page.evaluate(
        """([samples, rate, columns]) => {
          const buffer = new AudioBuffer({ length: samples.length, sampleRate: rate });
          buffer.copyToChannel(Float32Array.from(samples), 0);
          const channel = buffer.getChannelData(0);
          const { decibels, bins, loudest } =
            spectrogram(channel, rate, columns, rate / 2);
          return { decibels: [...decibels], bins, loudest };
        }""",
        [samples.tolist(), rate, columns],
    )
    padded = np.pad(samples.astype(float), 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    for column in range(columns):
        start = int(np.floor((column + 0.5) * 2000 / columns - 128 + 0.5)) + 256
        turns = np.exp(-2j * np.pi * np.outer(np.arange(128), np.arange(256)) / 256)
        expected = 10 * np.log10(
            np.abs(turns @ (window * padded[start : start + 256])) ** 2 + 1e-16
        )
        np.testing.assert_allclose(
            found["decibels"][128 * column : 128 * (column + 1)], expected, atol=0.05
        )
    assert found["bins"] == 128
    assert int(np.argmax(found["decibels"][128 * 25 : 128 * 26])) == 32
    assert found["loudest"] == pytest.approx(max(found["decibels"]))


def test_example_can_be_saved_as_zip(visit, listening_page):
    page = visit(listening_page)
    _, content = download(page, ready(page).get_by_role("button", name="Save all as zip"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        voices = [f"voice{v}-{kind}.flac" for v in (1, 2) for kind in ("source", "ann", "snn")]
        assert archive.namelist() == ["mixture.flac", *voices]
        for name in archive.namelist():
            assert soundfile.info(io.BytesIO(archive.read(name))).duration == SECONDS
