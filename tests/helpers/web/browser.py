"""Both pages in a Chromium of this machine: helpers that drive them."""

import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if CHROMIUM is None:
    pytest.skip(
        "no chromium, chromium-browser or google-chrome on this machine", allow_module_level=True
    )

SECONDS = 3.0
"""Length of the examples on the listening page."""
MICROPHONE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
DOMINANT = """() => {
  const levels = new Float32Array(analyser.frequencyBinCount);
  analyser.getFloatFrequencyData(levels);
  return levels.indexOf(Math.max(...levels)) * analyser.context.sampleRate / analyser.fftSize;
}"""
"""Frequency of the strongest component of what is playing, in Hz."""
TAP = """() => {
  const output = document.querySelector(".player").player.output;
  window.analyser = new AnalyserNode(output.context, { fftSize: 4096, smoothingTimeConstant: 0 });
  output.connect(window.analyser);
  // Right before a switch and right after: position, and the time of the audio clock.
  window.moments = [];
  const player = document.querySelector(".player").player;
  const moment = () => [player.position, output.context.currentTime];
  document.addEventListener("change", () => (moments = [moment()]), true);
  document.addEventListener("change", () => moments.push(moment()));
}"""
"""Connects an analyser to the output of the first player."""
FILES = """(files) => {
  const transfer = new DataTransfer();
  for (const [name, bytes] of files) {
    if (name) transfer.items.add(new File([Uint8Array.from(bytes)], name));
    else transfer.items.add("some text", "text/plain");
  }
  return transfer;
}"""
"""Makes a DataTransfer of files."""


def ready(page):
    """Wait until all players can be used; return the first."""
    playwright.expect(page.locator(".player:not(.ready)")).to_have_count(0, timeout=30_000)
    return page.locator(".player").first


def position(page) -> float:
    """Return the position of the first player in seconds."""
    return page.evaluate("document.querySelector('.player').player.position")


def wait_for_playback(page):
    """Wait until the position of the first player changes."""
    before = position(page)
    until(lambda: position(page) != before)


def until(condition, seconds=10.0):
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def tone(seconds, rate, gain=1.0) -> bytes:
    """Encode tones of 300 and 700 Hz as a WAV file."""
    time = np.arange(int(seconds * rate)) / rate
    samples = 0.2 * np.sin(2 * np.pi * 300 * time) + 0.1 * np.sin(2 * np.pi * 700 * time)
    buffer = io.BytesIO()
    soundfile.write(buffer, gain * samples, rate, format="WAV")
    return buffer.getvalue()


def answer_with(page, seconds, turns, n_voices, heard=None):
    """Let the page get voices of tones, with these turns of (start, stop, voice), as an answer.

    The mixture and the voices are equal; all voices are heard by default.
    """
    sound = tone(seconds, 8000)
    names = ["mixture", *(f"voice{k + 1}" for k in range(n_voices))]
    report = {
        "sample_rate": 8000,
        "summary": "",
        "work": "",
        "turns": [dict(zip(("start", "stop", "speaker"), turn, strict=True)) for turn in turns],
        "heard": heard or list(range(1, n_voices + 1)),
        "follows": True,
    }
    line = json.dumps({"report": report, "parts": {name: len(sound) for name in names}})
    body = f"{line}\n".encode() + len(names) * sound
    page.route("**/separate", lambda route: route.fulfill(body=body))


def drop(page, *files: tuple[str, bytes]):
    """Drop files, given as name and content; an empty name drops text instead."""
    transfer = page.evaluate_handle(FILES, [[name, list(content)] for name, content in files])
    page.dispatch_event(".drop", "dragover", {"dataTransfer": transfer})
    assert "over" in page.locator(".drop").get_attribute("class")
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})


def choose(page, *files: tuple[str, bytes]):
    """Choose files with the file button."""
    given = [{"name": name, "mimeType": "audio/wav", "buffer": content} for name, content in files]
    page.set_input_files(".pick", given)


def entry(page, text):
    """Return the row of the queue that contains this text."""
    return page.locator("li.entry", has_text=text)


def download(page, button) -> tuple[str, bytes]:
    """Click a button and return name and content of the file that it downloads."""
    with page.expect_download() as started:
        button.click()
    return started.value.suggested_filename, Path(started.value.path()).read_bytes()
