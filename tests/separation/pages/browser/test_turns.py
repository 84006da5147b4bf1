"""Who speaks when on both pages: bars, list, keys and RTTM files."""

import io
import zipfile

import pytest
from helpers.separators import tiny_separator
from helpers.tracks import tiny_embedder
from helpers.web.browser import (
    answer_with,
    download,
    drop,
    playwright,
    position,
    ready,
    tone,
    until,
)
from helpers.web.pages import conversation_page
from helpers.web.serve import serving

from spikesep.separation.inference.in_memory import Model
from spikesep.separation.tracks.rttm import Turn, format_rttm, read_rttm

TURNS = [(0.5, 2.0, 1), (1.0, 4.0, 2), (4.5, 6.0, 1), (7.0, 9.5, 2)]
BARS = """svg => [...svg.querySelectorAll("rect")].map((bar) => {
  const { x, width } = bar.getBoundingClientRect(), box = svg.getBoundingClientRect();
  const { left, span } = bar.closest(".player").player.view;
  const time = (place) => left + (span * (place - box.x)) / box.width;
  return [time(x), time(x + width)];
})"""
"""Start and stop of the bars of a lane, from where they are on the screen."""


@pytest.fixture(scope="module")
def tracking():
    """Return a running service that tells speakers apart."""
    with serving(Model(tiny_separator(), embedder=tiny_embedder(True))) as running:
        yield running


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    """Build the listening page of conversations of 12 s; return its experiment and address."""
    made, _ = conversation_page(tmp_path_factory.mktemp("talk"), 12.0)
    return made, (made.exp / "demo" / "index.html").as_uri()


def bars(player, source):
    """Return the bars of a voice as they are drawn."""
    return player.locator(f".lane[data-source={source}] svg").evaluate(BARS)


def assert_drawn(found, expected, pixel):
    """Check that bars are where turns are, to within the line of one pixel around them."""
    assert len(found) == len(expected)
    for bar, turn in zip(found, expected, strict=True):
        assert bar == pytest.approx(turn, abs=2 * pixel)


def test_bars_equal_the_rttm_of_the_tracks(visit, tracking, tmp_path):
    page = visit(tracking.url)
    drop(page, ("my talk.wav", tone(12, 8000)))
    player = ready(page)
    name, content = download(page, player.get_by_role("button", name="Save turns as rttm"))
    assert name == "my talk.rttm"
    turns = [Turn(**turn) for turn in page.evaluate("heard.result.report.turns")]
    assert turns
    assert content.decode() == format_rttm("my talk", turns)
    (tmp_path / name).write_bytes(content)
    listed = read_rttm(tmp_path / name)["my_talk"]
    pixel = 12 / player.locator(".wave").bounding_box()["width"]
    for k in (1, 2):
        own = [(a, b) for speaker, a, b in listed if speaker == f"spk{k}"]
        assert_drawn(bars(player, f"voice{k}"), own, pixel)
        said = player.locator(f".lane[data-source=voice{k}] .talked").inner_text()
        assert said.startswith(f"{len(own)} turn" if own else "not heard")


def test_turns_are_in_the_zip_under_the_names_of_the_voices(visit, service):
    page = visit(service.url)
    answer_with(page, 10, TURNS, 2)
    drop(page, ("talk.wav", tone(1, 8000)))
    player = ready(page)
    player.get_by_label("Name of voice 2").fill("Ann B")
    assert player.locator(".lane[data-source=voice2] .who").inner_text() == "Ann B"
    _, content = download(page, player.get_by_role("button", name="Save all as zip"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["talk_spk1.wav", "talk_Ann B.wav", "talk.rttm"]
        assert archive.read("talk.rttm").decode() == (
            "SPEAKER talk 1 0.50 1.50 <NA> <NA> spk1 <NA> <NA>\n"
            "SPEAKER talk 1 1.00 3.00 <NA> <NA> Ann_B <NA> <NA>\n"
            "SPEAKER talk 1 4.50 1.50 <NA> <NA> spk1 <NA> <NA>\n"
            "SPEAKER talk 1 7.00 2.50 <NA> <NA> Ann_B <NA> <NA>\n"
        )


def test_bars_axis_list_and_keys_seek(visit, service):
    page = visit(service.url)
    answer_with(page, 10, TURNS, 2)
    drop(page, ("talk.wav", tone(1, 8000)))
    player = ready(page)
    width = player.locator(".wave").bounding_box()["width"]
    player.locator(".lane[data-source=voice2] rect").nth(1).click()
    assert position(page) == pytest.approx(8.25, abs=0.05)
    player.locator(".axis").click(position={"x": 0.3 * width, "y": 12})
    assert position(page) == pytest.approx(3, abs=0.05)
    for key, expected in (("n", 4.5), ("n", 7), ("n", 7), ("p", 4.5), ("p", 1), ("p", 0.5)):
        page.keyboard.press(key)
        assert position(page) == pytest.approx(expected, abs=0.001)
    player.locator("summary", has_text="List of 4 turns").click()
    rows = player.locator(".turns tbody tr")
    assert [row.inner_text().split("\t") for row in rows.all()] == [
        ["0:00.5", "1.5 s", "Voice 1"],
        ["0:01.0", "3.0 s", "Voice 2"],
        ["0:04.5", "1.5 s", "Voice 1"],
        ["0:07.0", "2.5 s", "Voice 2"],
    ]
    rows.nth(3).get_by_role("button").press("Enter")
    assert position(page) == pytest.approx(7, abs=0.001)


@pytest.mark.parametrize("n", [1, 3, 4])
def test_page_has_as_many_voices_as_the_model(visit, n):
    with serving(Model(tiny_separator(n_speakers=n))) as service:
        page = visit(service.url, width=360, height=740)
        turns = [(k, k + 1.5, k % n + 1) for k in range(10)]
        answer_with(page, 12, turns, n)
        drop(page, ("talk.wav", tone(1, 8000)))
        player = ready(page)
        names = [f"Voice {k + 1}" for k in range(n)]
        shown = player.locator(".choices .face:visible b").all_inner_texts()
        assert shown == ["Mixture", *names, *(["All at once"] if n > 1 else [])]
        playwright.expect(player.locator(".fader:visible")).to_have_count(n if n > 1 else 0)
        assert player.locator(".who:visible").all_inner_texts() == names
        fill = "bar => getComputedStyle(bar).fill"
        lanes = player.locator(".lane").all()
        assert len({lane.locator("rect").first.evaluate(fill) for lane in lanes}) == n
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.keyboard.press(str(n + 1))
        assert page.evaluate("document.querySelector('.player').player.source") == f"voice{n}"
        _, content = download(page, player.get_by_role("button", name="Save all as zip"))
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            voices = [f"talk_spk{k + 1}.wav" for k in range(n)]
            assert archive.namelist() == [*voices, "talk.rttm"]


def test_voices_that_are_not_heard_are_hidden_until_asked_for(visit):
    with serving(Model(tiny_separator(n_speakers=3))) as service:
        page = visit(service.url)
        answer_with(page, 6, [(0, 2, 1), (3, 3.2, 2), (2, 5, 3)], 3, heard=[1, 3])
        drop(page, ("talk.wav", tone(1, 8000)))
        player = ready(page)
        assert player.locator(".who:visible").all_inner_texts() == ["Voice 1", "Voice 3"]
        assert player.locator(".face kbd").all_inner_texts()[0] == "1"
        page.keyboard.press("3")
        assert page.evaluate("document.querySelector('.player').player.source") == "voice3"
        save = player.get_by_role("button", name="Save turns as rttm")
        assert b"spk2" not in download(page, save)[1]
        player.get_by_role("button", name="Show 1 voice in which nobody is heard").click()
        until(lambda: player.locator(".who:visible").count() == 3)
        ready(page)
        assert b"spk2" in download(page, save)[1]
        player.get_by_role("button", name="Hide 1 voice in which nobody is heard").click()
        until(lambda: player.locator(".who:visible").count() == 2)
        ready(page)


def test_reference_and_found_turns_are_drawn_and_saved(visit, conversations, tmp_path):
    made, address = conversations
    page = visit(address)
    player = ready(page)
    utt = player.locator(".save-zip").get_attribute("data-name")
    _, content = download(page, player.get_by_role("button", name="Save all as zip"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sounds = [f"voice{v}-{kind}.mp3" for v in (1, 2, 3) for kind in ("source", "ann", "snn")]
        assert archive.namelist() == ["mixture.mp3", *sounds, "reference.rttm", "found.rttm"]
        archive.extractall(tmp_path)
    reference = read_rttm(tmp_path / "reference.rttm")[utt]
    expected = read_rttm(made.data / "cv" / "rttm")[utt]
    speakers = utt.partition("-")[0].split("_")
    assert [(int(name[-1]), a) for name, a, _ in reference] == [
        (speakers.index(name) + 1, a) for name, a, _ in expected
    ]
    found = read_rttm(tmp_path / "found.rttm")[utt]
    pixel = 12 / player.locator(".wave").bounding_box()["width"]
    for k in (1, 2, 3):
        own = [(a, b) for turns in (reference, found) for s, a, b in turns if s == f"voice{k}"]
        assert_drawn(bars(player, f"voice{k}-snn"), own, pixel)
    heads = player.locator(".turns th").all_text_contents()
    assert heads == ["Start", "Length", "Voice", "Kind"]


def test_bars_are_drawn_without_javascript(visit, conversations):
    page = visit(conversations[1], java_script_enabled=False)
    lanes = page.locator("article").first.locator(".lane svg:visible")
    playwright.expect(lanes).to_have_count(3)
    box, bar = lanes.first.bounding_box(), lanes.first.locator("rect").first.bounding_box()
    assert bar["width"] == pytest.approx(box["width"] / 12, abs=3)  # a turn of 1 s
    dead = ".overview:visible, .turns:visible, .cursor:visible, .axis:visible"
    playwright.expect(page.locator(dead)).to_have_count(0)


def test_bars_are_seen_with_forced_colours(visit, conversations):
    page = visit(conversations[1], forced_colors="active")
    player = ready(page)
    style = "([element, name]) => getComputedStyle(element)[name]"

    def of(selector, name):
        return page.evaluate(style, [player.locator(selector).first.element_handle(), name])

    ground = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert of(".found rect", "fill") != ground
    assert of(".reference rect", "stroke") != ground
    assert of(".reference rect", "fill") != of(".found rect", "fill")
    assert of(".overview .window", "borderTopColor") != ground
    assert of(".overview .mark", "backgroundColor") != ground


def test_pictures_and_controls_of_turns_have_names(visit, conversations):
    page = visit(conversations[1])
    player = ready(page)
    assert player.get_by_role("img", name="Voice 1, female reference").count() == 1
    assert player.get_by_role("slider", name="Part shown").count() == 1
    nameless = """() => [...document.querySelectorAll(".bars, .overview")].filter((element) => {
      const by = element.getAttribute("aria-labelledby");
      return !(by ? document.getElementById(by)?.textContent : element.getAttribute("aria-label"));
    }).length"""
    assert page.evaluate(nameless) == 0
    doubled = """() => { const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
      return ids.length - new Set(ids).size; }"""
    assert page.evaluate(doubled) == 0
