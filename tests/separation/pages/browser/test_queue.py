import io
import re
import time
import zipfile

import soundfile
from helpers.web.browser import (
    DOMINANT,
    TAP,
    choose,
    download,
    drop,
    entry,
    playwright,
    position,
    ready,
    tone,
    until,
)


def test_voices_of_a_dropped_recording_can_be_played_renamed_and_saved(visit, service):
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
    player.get_by_label("Name of voice 2").fill("Ann/a 1")  # without triggering keyboard shortcuts
    player.get_by_role("radio", name="Ann/a 1").check(force=True)
    assert player.locator(".chosen").first.inner_text() == "Ann/a 1"
    voices = {}
    for button, ending in (
        ("Save as wav (Voice 1)", "_spk1.wav"),
        ("Save as wav (Ann/a 1)", "_Ann_a 1.wav"),
    ):
        name, voices[ending] = download(page, player.get_by_role("button", name=button))
        assert name.endswith(ending)
        voice = soundfile.info(io.BytesIO(voices[ending]))
        assert (voice.frames, voice.samplerate, voice.channels) == (19200, 16000, 1)
    name, content = download(page, player.get_by_role("button", name="Save all as zip"))
    assert name.endswith(".zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        *names, turns = archive.namelist()
        assert [archive.read(name) for name in names] == list(voices.values())
        assert names == ["wörter _b__spk1.wav", "wörter _b__Ann_a 1.wav"]
        assert turns == "wörter _b_.rttm"


def test_dropped_files_are_separated_in_turn_and_saved_as_zip(visit, service, blocks):
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
    _, content = download(
        page, page.get_by_role("button", name="Save the voices of all recordings as zip")
    )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == [
            "a_spk1.wav",
            "a_spk2.wav",
            "a.rttm",
            "a_spk1 (2).wav",
            "a_spk2 (2).wav",
            "a (2).rttm",
        ]


def test_dropping_something_else_is_reported(visit, service):
    page = visit(service.url)
    drop(page, ("", b""))
    page.locator(".trouble:visible", has_text="is not a file").wait_for()
    drop(page, ("talk.wav", tone(0.5, 8000)))
    ready(page)
    assert not page.locator(".trouble").last.is_visible()
    page.evaluate(
        "Queue.add({ size: 1, slice: () => ({ arrayBuffer: () => Promise.reject() }) }, 'talks')"
    )
    playwright.expect(entry(page, "talks").locator(".state")).to_contain_text(
        "drop the files in it"
    )


def test_progress_shows_the_time_left_and_separation_can_be_cancelled(visit, service, blocks):
    page = visit(service.url)
    choose(page, ("long.wav", tone(55, 8000)), ("short.wav", tone(0.5, 8000)))
    row = entry(page, "long.wav")
    row.get_by_text("0 %").wait_for()
    blocks.release(2)
    playwright.expect(row.locator(".state")).to_have_text(re.compile(r"^[1-9]\d* %, 0:\d\d left$"))
    assert 0.1 < row.get_by_role("progressbar").evaluate("bar => bar.value") < 0.8
    row.get_by_role("button", name="Cancel long.wav").click()
    row.get_by_text("Cancelled").wait_for()
    blocks.release(1)  # the running block; four are left
    entry(page, "short.wav").get_by_text("0 %").wait_for()
    blocks.release(100)
    row.get_by_role("button", name="Try again").click()
    row.get_by_role("button", name="Listen").wait_for()


def test_queue_continues_after_bad_files(visit, service):
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


def test_busy_service_is_reported_and_can_be_retried(visit, service):
    page = visit(service.url, expected=("status of 503",))
    with service.busy:
        drop(page, ("talk.wav", tone(0.5, 8000)))
        entry(page, "busy with another recording").wait_for()
    page.get_by_role("button", name="Try again").click()
    ready(page)


def test_stopped_service_is_reported(visit, service):
    page = visit(service.url, expected=("ERR_FAILED",))
    page.route("**/separate", lambda route: route.abort())
    drop(page, ("talk.wav", tone(0.5, 8000)))
    entry(page, "spikesep-serve does not respond; start it again").wait_for()


def test_microphone_can_be_recorded(visit, service):
    page = visit(service.url, permissions=["microphone"])
    page.get_by_role("button", name="Record").click()
    page.get_by_text("Recording: 0:0").wait_for()
    time.sleep(0.6)
    page.get_by_role("button", name="Stop and separate").click()
    ready(page)
    assert page.locator("#heard").inner_text() == "recording.wav"
    assert 0.3 < page.evaluate("document.querySelector('.player').player.duration") < 5


def test_recording_stops_at_the_limit(visit, service):
    page = visit(service.url, permissions=["microphone"])
    page.evaluate("document.querySelector('.drop').dataset.seconds = 1.6")
    page.get_by_role("button", name="Record").click()
    page.get_by_text(
        "Recording stopped at 1.6 s; start spikesep-serve with a larger --max-seconds"
    ).wait_for()
    ready(page)
