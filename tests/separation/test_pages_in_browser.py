"""Both pages as somebody uses them, in a Chromium of this machine: what is heard, what is seen, what is asked for."""

import io
import shutil
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
from conftest import make_experiment, write_mixtures

from spikesep.separation import scoring
from spikesep.separation.config import DemoConfig, ScoringConfig, SeparatorConfig
from spikesep.separation.demo import build_page
from spikesep.separation.model import Separator
from spikesep.separation.separate import Model
from spikesep.separation.serve import Service

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium, chromium-browser or google-chrome on this machine", allow_module_level=True)

SECONDS = 3.0
MICROPHONE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
DOMINANT = """() => {
  const levels = new Float32Array(analyser.frequencyBinCount);
  analyser.getFloatFrequencyData(levels);
  return levels.indexOf(Math.max(...levels)) * analyser.context.sampleRate / analyser.fftSize;
}"""
TAP = """() => {
  const output = document.querySelector(".player").player.output;
  window.analyser = new AnalyserNode(output.context, { fftSize: 4096, smoothingTimeConstant: 0 });
  output.connect(window.analyser);
  window.places = []; // right before a switch and right after: position, and the time of the audio clock
  document.addEventListener("change", () => (places = [output.place()]), true);
  document.addEventListener("change", () => places.push(output.place()));
  output.place = () => [document.querySelector(".player").player.position, output.context.currentTime];
}"""
FILE = """([name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(bytes)], name));
  return transfer;
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *MICROPHONE])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Open an address; at the end, nothing was asked of another host, and nothing was complained of but `expected`."""
    pages = []

    def visit(address, width=1100, height=900, expected=(), before="", **options):
        page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
        page.add_init_script(before)
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        pages.append((page, address, asked, complaints, expected))
        return page

    yield visit
    for page, address, asked, complaints, expected in pages:
        page.context.close()
        assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked
        assert [text for text in complaints if not any(part in text for part in expected)] == []


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """The listening page of an experiment whose first voices lie below 500 Hz, and second voices above 850."""
    experiment = make_experiment(tmp_path_factory.mktemp("page"))
    for number, name in enumerate(("cv", "tt")):
        shutil.rmtree(experiment.data / name)
        write_mixtures(experiment.data / name, seed=number, n=2, seconds=SECONDS)
    scoring.score(experiment.data, experiment.exp, ScoringConfig(metrics=[]), 1)
    return build_page(experiment.data, experiment.exp, experiment.exp / "demo", DemoConfig()).as_uri()


@pytest.fixture(scope="module")
def service():
    torch.manual_seed(0)
    model = Model(Separator(SeparatorConfig(n_filters=16, n_channels=8, dilations=[1, 2])))
    with Service(model, "a model", max_seconds=8) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def ready(page):
    """The first player, when all of them can be used."""
    playwright.expect(page.locator(".player:not(.ready)")).to_have_count(0, timeout=30_000)
    return page.locator(".player").first


def position(page) -> float:
    """Of the first player, in seconds."""
    return page.evaluate("document.querySelector('.player').player.position")


def moves(page):
    """See that the position does."""
    before = position(page)
    until(lambda: position(page) != before)


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_playing_moves_and_switching_keeps_the_place_and_changes_what_is_heard_and_seen(visit, address):
    page = visit(address)
    player = ready(page)
    player.get_by_label("Repeat").check()
    assert position(page) == 0
    player.get_by_role("button", name="Play").click()
    page.evaluate(TAP)
    heard, pictures = {}, {}
    for label in ("voice 1, reference", "voice 2, reference", "voice 1, SNN", "the mixture"):
        until(lambda: 0 < position(page) < SECONDS / 2)  # well before it begins again
        player.locator(".choice", has=page.get_by_role("radio", name=label)).click()
        (before, at), (after, then) = page.evaluate("places")
        assert before > 0
        assert abs(after - before - (then - at)) < 0.1
        moves(page)
        until(lambda: page.evaluate(DOMINANT) > 0)
        time.sleep(0.2)
        heard[label] = page.evaluate(DOMINANT)
        pictures[label] = player.locator(".spectrum").evaluate("canvas => canvas.toDataURL()")
        assert player.locator(".chosen").first.inner_text() == label
    assert (
        heard["voice 1, reference"] < 675 < heard["voice 2, reference"]
    )  # between 500 and 850, whatever the pulse smears
    assert len(set(pictures.values())) == 4
    player.get_by_role("button", name="Pause").click()
    rest = position(page)
    time.sleep(0.1)
    assert position(page) == rest


def test_one_example_plays_at_a_time_and_at_the_end_it_stands(visit, address):
    page = visit(address)
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


def test_a_click_on_a_picture_seeks_and_the_cursor_stands_there(visit, address):
    page = visit(address)
    player = ready(page)
    for strip in (".wave", ".spectrum", ".spikes img >> nth=1"):
        for share in (0.25, 0.8):
            picture = player.locator(strip)
            width = picture.bounding_box()["width"]
            picture.click(position={"x": share * width, "y": 20})
            box = picture.bounding_box()  # it may have been scrolled to
            assert position(page) == pytest.approx(share * SECONDS, abs=0.02)
            cursor = player.locator(".cursor").bounding_box()
            assert cursor["x"] + cursor["width"] / 2 == pytest.approx(box["x"] + share * width, abs=2)
            assert cursor["y"] < box["y"] < box["y"] + box["height"] <= cursor["y"] + cursor["height"] + 1


def test_all_can_be_done_with_the_keyboard(visit, address):
    page = visit(address)
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
    place = position(page)
    page.keyboard.press(".")
    assert position(page) == pytest.approx(place + 1, abs=0.01)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "play"
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert position(page) == 0


def test_colours_follow_the_system_until_they_are_switched_and_pictures_are_drawn_anew(visit, address, service):
    colour = "getComputedStyle(document.body).backgroundColor"
    brightness = f"{colour}.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    corner = "canvas => canvas.getContext('2d').getImageData(5, 5, 1, 1).data.slice(0, 3).reduce((a, b) => a + b, 0)"
    assert visit(service.url, color_scheme="light").evaluate(brightness) > 650
    for place in (service.url, address):
        page = visit(place, color_scheme="dark", expected=("willReadFrequently",))
        assert page.evaluate(brightness) < 150
        page.emulate_media(color_scheme="light")
        assert page.evaluate(brightness) > 650
        page.emulate_media(color_scheme="dark")
        page.get_by_role("button", name="Light colours").click()
        assert page.evaluate(brightness) > 650
    spectrum = ready(page).locator(".spectrum")
    light = spectrum.evaluate(corner)
    page.get_by_role("button", name="Dark colours").click()
    assert page.evaluate(brightness) < 150
    assert spectrum.evaluate(corner) < light - 100


def test_a_phone_has_room_for_all_of_it(visit, address, service):
    for place in (address, service.url):
        page = visit(place, width=360, height=740)
        if place is address:
            ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for button in page.locator(".choice:visible, .play:visible, .button:visible").all():
            assert button.bounding_box()["height"] >= 44


def test_where_scripts_cannot_play_every_sound_has_a_player_of_the_browser(visit, address):
    for options in ({"java_script_enabled": False}, {"before": "delete window.OfflineAudioContext"}):
        page = visit(address, **options)
        playwright.expect(page.locator("article").first.locator("audio:visible")).to_have_count(7)
        playwright.expect(page.locator("canvas:visible, .transport:visible, .theme:visible")).to_have_count(0)


def test_the_spectrogram_is_that_of_a_plain_fourier_transform(visit, service):
    page = visit(service.url)
    rng, rate, columns = np.random.default_rng(0), 8000, 50
    samples = (np.sin(2 * np.pi * 1000 * np.arange(2000) / rate) + 0.1 * rng.normal(size=2000)).astype(np.float32)
    found = page.evaluate(
        """([samples, rate, columns]) => {
          const buffer = new AudioBuffer({ length: samples.length, sampleRate: rate });
          buffer.copyToChannel(Float32Array.from(samples), 0);
          const { decibels, bins, loudest } = spectrogram(buffer, columns, rate / 2);
          return { decibels: [...decibels], bins, loudest };
        }""",
        [samples.tolist(), rate, columns],
    )
    padded = np.pad(samples.astype(float), 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    for column in range(columns):
        start = int(np.floor((column + 0.5) * 2000 / columns - 128 + 0.5)) + 256
        turns = np.exp(-2j * np.pi * np.outer(np.arange(128), np.arange(256)) / 256)
        expected = 10 * np.log10(np.abs(turns @ (window * padded[start : start + 256])) ** 2 + 1e-16)
        np.testing.assert_allclose(found["decibels"][128 * column : 128 * (column + 1)], expected, atol=0.05)
    assert found["bins"] == 128
    assert int(np.argmax(found["decibels"][128 * 25 : 128 * 26])) == 32
    assert found["loudest"] == pytest.approx(max(found["decibels"]))


def tone(seconds, rate) -> bytes:
    time = np.arange(int(seconds * rate)) / rate
    buffer = io.BytesIO()
    soundfile.write(
        buffer, 0.2 * np.sin(2 * np.pi * 300 * time) + 0.1 * np.sin(2 * np.pi * 700 * time), rate, format="WAV"
    )
    return buffer.getvalue()


def drop(page, name, content: bytes):
    transfer = page.evaluate_handle(FILE, [name, list(content)])
    page.dispatch_event(".drop", "dragover", {"dataTransfer": transfer})
    assert "over" in page.locator(".drop").get_attribute("class")
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})


def test_a_dropped_recording_is_heard_as_two_voices_that_can_be_saved(visit, service, tmp_path):
    page = visit(service.url)
    drop(page, "wörter <b>.wav", tone(1.2, 16000))
    player = ready(page)
    assert page.locator("#heard").inner_text() == "wörter <b>.wav"
    player.get_by_role("button", name="Play").click()
    page.evaluate(TAP)
    until(lambda: position(page) > 0.1)
    page.keyboard.press("1")
    time.sleep(0.2)
    assert 250 < page.evaluate(DOMINANT) < 350
    assert page.evaluate("Object.keys(document.querySelector('.player').player.buffers)") == [
        "mixture",
        "voice1",
        "voice2",
    ]
    for k, link in enumerate(page.locator(".save").all(), start=1):
        with page.expect_download() as download:
            link.click()
        assert download.value.suggested_filename.endswith(f"_spk{k}.wav")
        download.value.save_as(tmp_path / f"{k}.wav")
        voice = soundfile.info(tmp_path / f"{k}.wav")
        assert (voice.frames, voice.samplerate, voice.channels) == (19200, 16000, 1)


def test_what_is_no_recording_is_one_line_on_the_page_and_the_next_file_is_taken(visit, service):
    page = visit(service.url, expected=("status of 422",))
    drop(page, "talk.txt", b"hello")
    trouble = page.locator(".trouble:visible")
    trouble.wait_for()
    assert trouble.inner_text().startswith("talk.txt: not a readable audio file")
    drop(page, "long.wav", tone(8.5, 8000))
    page.get_by_text("--max-seconds").wait_for()
    page.set_input_files(".pick", {"name": "talk.wav", "mimeType": "audio/wav", "buffer": tone(0.5, 8000)})
    ready(page)
    assert not page.locator(".trouble").is_visible()


def test_a_second_recording_meanwhile_is_told_busy(visit, service):
    page = visit(service.url, expected=("status of 503",))
    with service.busy:
        drop(page, "talk.wav", tone(0.5, 8000))
        page.get_by_text("busy with another recording").wait_for()


def test_the_microphone_can_be_the_recording(visit, service):
    page = visit(service.url, permissions=["microphone"])
    page.get_by_role("button", name="Record").click()
    page.get_by_text("Recording: 0:0").wait_for()
    time.sleep(0.6)
    page.get_by_role("button", name="Stop and separate").click()
    ready(page)
    assert page.locator("#heard").inner_text() == "recording.wav"
    assert 0.3 < page.evaluate("document.querySelector('.player').player.duration") < 5
