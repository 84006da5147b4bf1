"""Both pages as somebody uses them, in a Chromium of this machine: what is heard, what is seen, what is asked for."""

import io
import re
import shutil
import threading
import time
import zipfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import make_experiment, write_mixtures

from spikesep.separation.config import DemoConfig, ScoringConfig, SeparatorConfig
from spikesep.separation.inference.separate import Model
from spikesep.separation.model.separator import Separator
from spikesep.separation.pages import build_page
from spikesep.separation.pages.server import Service
from spikesep.separation.scoring import score

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if CHROMIUM is None:
    pytest.skip(
        "no chromium, chromium-browser or google-chrome on this machine", allow_module_level=True
    )

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
FILES = """(files) => {
  const transfer = new DataTransfer();
  for (const [name, bytes] of files) {
    if (name) transfer.items.add(new File([Uint8Array.from(bytes)], name));
    else transfer.items.add("some text", "text/plain");
  }
  return transfer;
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *MICROPHONE]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Open an address; at the end, nothing was asked of another host, and nothing was complained of but `expected`."""
    pages = []

    def visit(address, width=1100, height=900, expected=(), before="", **options):
        page = browser.new_context(
            viewport={"width": width, "height": height}, **options
        ).new_page()
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
    score.score(experiment.data, experiment.exp, ScoringConfig(metrics=[]), 1)
    return build_page(
        experiment.data, experiment.exp, experiment.exp / "demo", DemoConfig()
    ).as_uri()


@pytest.fixture(scope="module")
def service():
    torch.manual_seed(0)
    model = Model(Separator(SeparatorConfig(n_filters=16, n_channels=8, dilations=[1, 2])))
    with Service(model, "a model", max_seconds=60) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        service.warming.join()
        yield service
        service.shutdown()
        thread.join()


@pytest.fixture
def blocks(service, monkeypatch):
    """Each block that the network works on waits for a `release`."""
    gate, network = threading.Semaphore(0), service.model.separator.separate_with_cost

    def waiting(mixture):
        return gate.acquire(timeout=10) and network(mixture)

    monkeypatch.setattr(service.model.separator, "separate_with_cost", waiting, raising=False)
    yield gate
    gate.release(100)


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


def test_playing_moves_and_switching_keeps_the_place_and_changes_what_is_heard_and_seen(
    visit, address
):
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
            assert cursor["x"] + cursor["width"] / 2 == pytest.approx(
                box["x"] + share * width, abs=2
            )
            assert (
                cursor["y"]
                < box["y"]
                < box["y"] + box["height"]
                <= cursor["y"] + cursor["height"] + 1
            )


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
    page.keyboard.press("8")
    assert page.evaluate(state) == ["both", False]
    passed = []
    while not passed or passed[-1] != "play":
        page.keyboard.press("Shift+Tab")
        passed.append(page.evaluate("document.activeElement.className"))
        if passed[-1] == "seek":
            page.keyboard.press("Home")
            assert position(page) == 0
    assert passed == ["closer", "wider", "repeat", "seek", "play"]


def test_colours_follow_the_system_until_they_are_switched_and_pictures_are_drawn_anew(
    visit, address, service
):
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
        if place == service.url:
            drop(page, ("talk.wav", tone(0.5, 8000)))
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for button in page.locator(
            ".choice:visible, button:not(.theme):visible, .button:visible"
        ).all():
            assert button.bounding_box()["height"] >= 44
        parts = page.locator(".player >> nth=0").locator(".transport > *").all()
        boxes = [part.bounding_box() for part in parts]
        for one, other in combinations(boxes, 2):
            beside = (
                one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
            )
            assert (
                beside
                or one["y"] + one["height"] <= other["y"]
                or other["y"] + other["height"] <= one["y"]
            )


def test_where_scripts_cannot_play_every_sound_has_a_player_of_the_browser(visit, address):
    for options in (
        {"java_script_enabled": False},
        {"before": "delete window.OfflineAudioContext"},
    ):
        page = visit(address, **options)
        playwright.expect(page.locator("article").first.locator("audio:visible")).to_have_count(7)
        dead = "canvas:visible, .transport:visible, .theme:visible, button:visible, input:visible"
        playwright.expect(page.locator(dead)).to_have_count(0)


def test_the_spectrogram_is_that_of_a_plain_fourier_transform(visit, service):
    page = visit(service.url)
    rng, rate, columns = np.random.default_rng(0), 8000, 50
    samples = (
        np.sin(2 * np.pi * 1000 * np.arange(2000) / rate) + 0.1 * rng.normal(size=2000)
    ).astype(np.float32)
    found = page.evaluate(
        """([samples, rate, columns]) => {
          const buffer = new AudioBuffer({ length: samples.length, sampleRate: rate });
          buffer.copyToChannel(Float32Array.from(samples), 0);
          const { decibels, bins, loudest } = spectrogram(buffer.getChannelData(0), rate, columns, rate / 2);
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


def tone(seconds, rate, gain=1.0) -> bytes:
    time = np.arange(int(seconds * rate)) / rate
    samples = 0.2 * np.sin(2 * np.pi * 300 * time) + 0.1 * np.sin(2 * np.pi * 700 * time)
    buffer = io.BytesIO()
    soundfile.write(buffer, gain * samples, rate, format="WAV")
    return buffer.getvalue()


def drop(page, *files: tuple[str, bytes]):
    """Drop files, a name and content each; text for a name that is empty."""
    transfer = page.evaluate_handle(FILES, [[name, list(content)] for name, content in files])
    page.dispatch_event(".drop", "dragover", {"dataTransfer": transfer})
    assert "over" in page.locator(".drop").get_attribute("class")
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})


def choose(page, *files: tuple[str, bytes]):
    given = [{"name": name, "mimeType": "audio/wav", "buffer": content} for name, content in files]
    page.set_input_files(".pick", given)


def entry(page, text):
    """The row of the queue that has this text."""
    return page.locator("li.entry", has_text=text)


def saved(page, button) -> tuple[str, bytes]:
    with page.expect_download() as download:
        button.click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_a_dropped_recording_is_heard_as_two_voices_that_can_be_named_and_saved(visit, service):
    page = visit(service.url)
    drop(page, ("wörter <b>.wav", tone(1.2, 16000)))
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
    player.get_by_label("Name of voice 2").fill("Ann/a 1")  # its keys choose and seek nothing
    player.get_by_role("radio", name="Ann/a 1").check(force=True)
    assert player.locator(".chosen").first.inner_text() == "Ann/a 1"
    voices = {}
    for button, ending in (
        ("Save as wav (Voice 1)", "_spk1.wav"),
        ("Save as wav (Ann/a 1)", "_Ann_a 1.wav"),
    ):
        name, voices[ending] = saved(page, player.get_by_role("button", name=button))
        assert name.endswith(ending)
        voice = soundfile.info(io.BytesIO(voices[ending]))
        assert (voice.frames, voice.samplerate, voice.channels) == (19200, 16000, 1)
    name, content = saved(page, player.get_by_role("button", name="Save all as zip"))
    assert name.endswith(".zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert [archive.read(name) for name in archive.namelist()] == list(voices.values())
        assert archive.namelist() == ["wörter _b__spk1.wav", "wörter _b__Ann_a 1.wav"]


def test_files_dropped_together_and_later_are_separated_in_turn_and_saved_in_one_zip(
    visit, service, blocks
):
    page = visit(service.url)
    drop(page, ("a.wav", tone(0.5, 8000)), ("b.wav", tone(0.6, 8000)))
    drop(page, ("a.wav", tone(0.7, 8000)))
    rows = page.locator("li.entry")
    playwright.expect(rows).to_have_count(3)
    assert rows.nth(1).locator(".state").inner_text() == "Waiting"
    entry(page, "b.wav").get_by_role("button", name="Remove b.wav").click()
    blocks.release(10)
    playwright.expect(rows.get_by_role("button", name="Listen")).to_have_count(2)
    assert (
        page.evaluate("document.querySelector('.player').player.duration") == 0.5
    )  # the first is shown
    rows.last.get_by_role("button", name="Listen").click()
    until(lambda: page.evaluate("document.querySelector('.player').player?.duration") == 0.7)
    _, content = saved(
        page, page.get_by_role("button", name="Save the voices of all recordings as zip")
    )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == [
            "a_spk1.wav",
            "a_spk2.wav",
            "a_spk1 (2).wav",
            "a_spk2 (2).wav",
        ]


def test_what_is_dropped_and_is_no_file_is_told(visit, service):
    page = visit(service.url)
    drop(page, ("", b""))
    page.locator(".trouble:visible", has_text="is no file").wait_for()
    drop(page, ("talk.wav", tone(0.5, 8000)))
    ready(page)
    assert not page.locator(".trouble").last.is_visible()
    page.evaluate(
        "Queue.add({ size: 1, slice: () => ({ arrayBuffer: () => Promise.reject() }) }, 'talks')"
    )
    playwright.expect(entry(page, "talks").locator(".state")).to_contain_text(
        "drop the files in it"
    )


def test_progress_is_told_with_the_time_that_is_left_and_cancel_stops_the_work(
    visit, service, blocks
):
    page = visit(service.url)
    choose(page, ("long.wav", tone(55, 8000)), ("short.wav", tone(0.5, 8000)))
    row = entry(page, "long.wav")
    row.get_by_text("0 %").wait_for()
    blocks.release(2)
    playwright.expect(row.locator(".state")).to_have_text(re.compile(r"^[1-9]\d* %, 0:\d\d left$"))
    assert 0.1 < row.get_by_role("progressbar").evaluate("bar => bar.value") < 0.8
    row.get_by_role("button", name="Cancel long.wav").click()
    row.get_by_text("Cancelled").wait_for()
    blocks.release(1)  # the block in work; four are left
    entry(page, "short.wav").get_by_text("0 %").wait_for()
    blocks.release(100)
    row.get_by_role("button", name="Try again").click()
    row.get_by_role("button", name="Listen").wait_for()


def test_what_is_no_recording_is_one_line_beside_it_and_the_next_is_taken(visit, service):
    page = visit(service.url, expected=("status of 422",))
    choose(
        page, ("talk.txt", b"hello"), ("long.wav", tone(60.5, 8000)), ("talk.wav", tone(0.5, 8000))
    )
    ready(page)
    assert (
        entry(page, "talk.txt")
        .locator(".state")
        .inner_text()
        .startswith("talk.txt: not a readable audio file")
    )
    assert "--max-seconds" in entry(page, "long.wav").locator(".state").inner_text()
    page.evaluate("document.querySelector('.drop').dataset.megabytes = 0.001")
    choose(page, ("large.wav", tone(1, 8000)))
    told = entry(page, "large.wav").locator(".state")
    playwright.expect(told).to_contain_text(
        "start spikesep-serve with --max-megabytes 1, or use spikesep-infer"
    )


def test_a_page_beside_another_is_told_busy_and_can_try_again(visit, service):
    page = visit(service.url, expected=("status of 503",))
    with service.busy:
        drop(page, ("talk.wav", tone(0.5, 8000)))
        entry(page, "busy with another recording").wait_for()
    page.get_by_role("button", name="Try again").click()
    ready(page)


def test_a_server_that_is_gone_is_told(visit, service):
    page = visit(service.url, expected=("ERR_FAILED",))
    page.route("**/separate", lambda route: route.abort())
    drop(page, ("talk.wav", tone(0.5, 8000)))
    entry(page, "spikesep-serve does not answer any more; start it again").wait_for()


def test_silence_is_called_silent_and_drawn_in_the_colour_of_nothing(visit, service):
    page = visit(service.url, color_scheme="light", expected=("willReadFrequently",))
    choose(page, ("silence.wav", tone(0.5, 8000, gain=0)))
    player = ready(page)
    assert player.get_by_text("This recording is silent.").is_visible()
    assert player.locator(".level").first.inner_text() == "silent"
    page.keyboard.press("1")
    page.evaluate("document.querySelector('.player').player.paint()")
    pixels = "canvas => [...canvas.getContext('2d').getImageData(9, 9, 1, 1).data.slice(0, 3)]"
    assert min(player.locator(".spectrum").evaluate(pixels)) > 240
    choose(page, ("talk.wav", tone(0.5, 8000)))
    playwright.expect(player.locator(".silent")).to_be_hidden()


def test_numbers_to_cut_by_come_first_and_operations_lie_behind_a_fold(visit, service, address):
    page = visit(service.url)
    drop(page, ("talk.wav", tone(1, 8000)))
    player = ready(page)
    assert re.fullmatch(
        r"1\.0 s at 8000 Hz, separated in .*", player.locator(".report").inner_text()
    )
    assert player.locator(".level").first.inner_text() == "peak −10.5, mean −16.0 dBFS"
    folds = {
        "What the network did": (page, ".work"),
        "What it costs": (visit(address), "dl >> nth=1"),
    }
    for summary, (place, hidden) in folds.items():
        assert not place.locator(hidden).is_visible()
        place.locator("summary", has_text=summary).click()
        assert "multiply-accumulates" in place.locator(hidden).inner_text()


@pytest.mark.parametrize("kind", ["try", "listen"])
def test_voices_are_heard_together_as_loud_as_their_faders_say(visit, address, service, kind):
    page = visit(address if kind == "listen" else service.url)
    one, two = ("voice1-snn", "voice2-snn") if kind == "listen" else ("voice1", "voice2")
    if kind == "try":
        drop(page, ("talk.wav", tone(3, 8000)))
    player = ready(page)

    def heard(expected):
        found = """() => Object.entries(document.querySelector('.player').player.gains)
          .map(([name, { gain }]) => [name, Math.round(10 * gain.value) / 10]).filter(([, g]) => g)"""
        until(lambda: dict(page.evaluate(found)) == expected)

    player.get_by_label("Repeat").check()
    player.get_by_role("button", name="Play").click()
    player.locator("input[value=both]").check(force=True)
    heard({one: 1, two: 1})
    player.locator("input[value=mixture]").check(force=True)
    heard({"mixture": 1})
    player.locator(f".fader[data-source={one}]").fill("30")  # chooses both by itself
    heard({one: 0.3, two: 1})
    player.locator(f".fader[data-source={two}]").fill("0")
    heard({one: 0.3})
    assert player.locator("input[value=both]").is_checked()
    shown = "blend([[Float32Array.of(1, 0.5), 0.5], [Float32Array.of(1, -1), 1]])"
    assert list(page.evaluate(f"[...{shown}]")) == [1.5, -0.75]


def test_zoom_shows_less_time_around_the_place_and_clicks_seek_in_it(visit, address):
    page = visit(address)
    player = ready(page)
    view = "(({left, span}) => [left, span])(document.querySelector('.player').player)"
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
    page.keyboard.press(".")  # past what is shown: the pictures follow
    assert page.evaluate(view)[0] > left + span
    for _ in range(3):
        page.keyboard.press("-")
    assert page.evaluate(view) == [0, pytest.approx(SECONDS)]


def test_an_example_of_the_listening_page_can_be_saved_as_zip(visit, address):
    page = visit(address)
    _, content = saved(page, ready(page).get_by_role("button", name="Save all as zip"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        voices = [f"voice{v}-{kind}.flac" for v in (1, 2) for kind in ("source", "ann", "snn")]
        assert archive.namelist() == ["mixture.flac", *voices]
        for name in archive.namelist():
            assert soundfile.info(io.BytesIO(archive.read(name))).duration == SECONDS


@pytest.mark.parametrize("size", [(1100, 900), (360, 740)], ids=["desk", "phone"])
def test_the_first_screen_of_the_listening_page_has_a_player(visit, address, size):
    page = visit(address, *size)
    button = ready(page).locator(".play").bounding_box()
    assert button["y"] + button["height"] < size[1]
    assert page.evaluate("scrollY") == 0


def test_without_javascript_the_page_to_try_says_what_to_do_and_shows_nothing_dead(visit, service):
    page = visit(service.url, java_script_enabled=False)
    assert page.locator("noscript p").is_visible()
    assert (
        "spikesep-infer recording.wav --out-dir voices" in page.locator("noscript p").inner_text()
    )
    playwright.expect(page.locator("button:visible, input:visible, .button:visible")).to_have_count(
        0
    )


def test_forced_colours_keep_the_choice_the_cursor_and_the_play_button(visit, service):
    page = visit(service.url, forced_colors="active")
    drop(page, ("talk.wav", tone(0.5, 8000)))
    player = ready(page)
    colour = "element => getComputedStyle(element).backgroundColor"
    chosen = player.locator("input:checked + .face").evaluate(colour)
    other = player.locator("input:not(:checked) + .face").first.evaluate(colour)
    ground = page.locator("body").evaluate(colour)
    assert chosen not in (other, ground)
    assert player.locator(".cursor").evaluate(colour) != ground
    for button in (".play", ".closer"):
        assert (
            player.locator(button).evaluate(
                "element => parseFloat(getComputedStyle(element).borderWidth)"
            )
            >= 1
        )


def test_what_is_written_on_a_control_is_in_its_name_and_landmarks_have_names_of_their_own(
    visit, address, service
):
    """Two rules of axe-core: label-content-name-mismatch, landmark-unique."""
    controls = """() => [...document.querySelectorAll("button, a, summary, label")].map((e) =>
      [(e.getAttribute("aria-label") ?? e.querySelector("[aria-label]")?.getAttribute("aria-label")), e])
      .filter(([name, e]) => name && !name.toLowerCase().includes(
        (e.querySelector("b") ?? e).innerText.trim().toLowerCase())).map(([name]) => name)"""
    landmarks = """() => [...document.querySelectorAll("section, [role=region]")].map((e) =>
      e.getAttribute("aria-label") ?? document.getElementById(e.getAttribute("aria-labelledby"))?.textContent)"""
    for place in (address, service.url):
        page = visit(place)
        if place == service.url:
            drop(page, ("talk.wav", tone(0.5, 8000)))
        ready(page)
        assert page.evaluate(controls) == []
        names = page.evaluate(landmarks)
        assert None not in names
        assert len(set(names)) == len(names)


def test_the_microphone_can_be_the_recording(visit, service):
    page = visit(service.url, permissions=["microphone"])
    page.get_by_role("button", name="Record").click()
    page.get_by_text("Recording: 0:0").wait_for()
    time.sleep(0.6)
    page.get_by_role("button", name="Stop and separate").click()
    ready(page)
    assert page.locator("#heard").inner_text() == "recording.wav"
    assert 0.3 < page.evaluate("document.querySelector('.player').player.duration") < 5


def test_a_recording_that_reaches_the_limit_is_kept_and_the_limit_named(visit, service):
    page = visit(service.url, permissions=["microphone"])
    page.evaluate("document.querySelector('.drop').dataset.seconds = 1.6")
    page.get_by_role("button", name="Record").click()
    page.get_by_text(
        "Recording stopped at 1.6 s; start spikesep-serve with a larger --max-seconds"
    ).wait_for()
    ready(page)
