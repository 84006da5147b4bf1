"""Zoom and scrolling: one view for all lanes of a player, by every means of input."""

import numpy as np
import pytest
from helpers.web.browser import answer_with, drop, position, ready, tone, until

SECONDS = 150.0
TURNS = [(10 * k + 1, 10 * k + 9, k % 3 + 1) for k in range(15)]
VIEW = "(({left, span}) => [left, span])(document.querySelector('.player').player.view)"


@pytest.fixture
def open_talk(visit, service):
    """Return a function that opens a page with a conversation of 150 s."""

    def open_talk(**options):
        page = visit(service.url, **options)
        answer_with(page, SECONDS, [turn for turn in TURNS if turn[2] < 3], 2)
        drop(page, ("talk.wav", tone(0.1, 8000)))
        return page, ready(page)

    return open_talk


def view(page) -> list[float]:
    return page.evaluate(VIEW)


def at_rest(player):
    """Return the middle of the waveform on the screen, scrolled into view."""
    player.locator(".wave").scroll_into_view_if_needed()
    box = player.locator(".wave").bounding_box()
    return box["x"], box["y"] + box["height"] / 2, box["width"]


def test_all_lanes_show_the_part_of_the_view(open_talk):
    page, player = open_talk()
    player.get_by_role("button", name="Zoom in").click()
    page.keyboard.press("+")
    page.keyboard.press("+")
    for _ in range(3):
        page.keyboard.press(">")
    left, span = view(page)
    assert span == pytest.approx(SECONDS / 8)
    assert left == pytest.approx(1.5 * span)
    for lane in player.locator(".bars").all():
        box = [float(part) for part in lane.get_attribute("viewBox").split()]
        assert box == pytest.approx([left, 0, span, 1])
    ticks = player.locator(".axis span")
    first = ticks.first
    assert first.inner_text() == "30 s"
    share = float(first.evaluate("tick => parseFloat(tick.style.left)")) / 100
    assert left + share * span == pytest.approx(30)
    window = player.locator(".overview .window").bounding_box()
    whole = player.locator(".overview").bounding_box()
    assert window["x"] - whole["x"] == pytest.approx(whole["width"] * left / SECONDS, abs=1.5)
    assert window["width"] == pytest.approx(whole["width"] / 8, abs=1.5)
    page.keyboard.press("<")
    assert view(page)[0] == pytest.approx(left - span / 2)
    page.keyboard.press("0")
    assert view(page) == [0, SECONDS]
    page.keyboard.press("+")
    player.get_by_role("button", name="Show all").click()
    assert view(page) == [0, SECONDS]


def test_wheel_zooms_at_the_pointer_and_scrolls(open_talk):
    page, player = open_talk()
    x, y, width = at_rest(player)
    page.mouse.move(x + 0.8 * width, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    until(lambda: view(page)[1] == pytest.approx(SECONDS / 8))
    page.keyboard.up("Control")
    left, span = view(page)
    assert left + 0.8 * span == pytest.approx(0.8 * SECONDS, abs=0.3)
    page.mouse.wheel(-width / 2, 0)
    until(lambda: view(page)[0] == pytest.approx(left - span / 2, abs=0.1))
    page.keyboard.down("Shift")
    page.mouse.wheel(0, width / 2)
    until(lambda: view(page)[0] == pytest.approx(left, abs=0.1))
    page.keyboard.up("Shift")
    before, scrolled = view(page), page.evaluate("scrollY")
    page.mouse.wheel(0, -100)  # without a key, the page scrolls
    until(lambda: page.evaluate("scrollY") < scrolled)
    assert view(page) == before


def test_fingers_seek_zoom_and_scroll(open_talk):
    page, player = open_talk(has_touch=True)
    x, y, width = at_rest(player)
    session = page.context.new_cdp_session(page)

    def touch(kind, *shares):
        points = [{"x": x + share * width, "y": y, "id": k} for k, share in enumerate(shares)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    page.touchscreen.tap(x + 0.5 * width, y)
    until(lambda: position(page) == pytest.approx(SECONDS / 2, abs=0.3))
    touch("touchStart", 0.4)
    touch("touchStart", 0.4, 0.6)
    for apart in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        touch("touchMove", 0.5 - apart / 2, 0.5 + apart / 2)
    until(lambda: view(page)[1] == pytest.approx(SECONDS / 4, rel=0.02))
    left, span = view(page)
    assert left + span / 2 == pytest.approx(SECONDS / 2, abs=1)
    touch("touchMove", 0.2, 1.0)  # both fingers to the right: the part moves with them
    until(lambda: view(page)[0] == pytest.approx(left - 0.1 * span, abs=0.5))
    touch("touchEnd")
    assert position(page) == pytest.approx(SECONDS / 2, abs=0.3)  # fingers that zoom do not seek


def test_overview_scrolls_by_mouse_and_keys(open_talk):
    page, player = open_talk()
    for _ in range(3):
        page.keyboard.press("+")
    overview = player.locator(".overview")
    overview.scroll_into_view_if_needed()
    box, span = overview.bounding_box(), SECONDS / 8
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 10)
    page.mouse.down()
    assert view(page)[0] == pytest.approx(SECONDS / 2 - span / 2, abs=0.3)
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 10)
    page.mouse.up()
    assert view(page)[0] == pytest.approx(0.75 * SECONDS - span / 2, abs=0.3)
    assert position(page) == 0
    overview.focus()
    for key, left in (
        ("Home", 0),
        ("ArrowRight", 0.1 * span),
        ("PageUp", 1.1 * span),
        ("ArrowLeft", span),
        ("End", SECONDS - span),
    ):
        page.keyboard.press(key)
        assert view(page)[0] == pytest.approx(left, abs=1e-6)
    facts = [overview.get_attribute(f"aria-value{name}") for name in ("now", "max", "text")]
    assert facts == ["131.25", "131.25", "131.3 to 150.0 of 150.0 seconds"]


def test_view_follows_the_playing_position_until_it_is_scrolled_away(open_talk):
    page, player = open_talk()
    cursor = player.locator(".cursor")
    for _ in range(8):
        page.keyboard.press("+")  # 0.6 s
    page.keyboard.press("Space")
    begun = view(page)[0]
    until(lambda: view(page)[0] > begun + 0.5)
    shown = "(({view, position}) => view.shows(position))(document.querySelector('.player').player)"
    for _ in range(10):
        assert page.evaluate(shown)
    page.keyboard.press(">")
    page.keyboard.press(">")
    page.keyboard.press(">")
    page.keyboard.press(">")
    ahead = view(page)[0]
    assert not page.evaluate(shown)
    assert not cursor.is_visible()
    until(lambda: page.evaluate(shown))  # it waits there until the position arrives
    assert view(page)[0] == ahead
    until(lambda: view(page)[0] > ahead)  # and follows again
    page.keyboard.press("0")
    for _ in range(8):
        page.keyboard.press("+")
    player.locator(".overview").press("End")
    assert view(page)[0] > 140
    page.keyboard.press(",")  # a jump shows the position
    assert page.evaluate(shown)
    assert cursor.is_visible()


def test_position_is_shown_on_all_lanes(visit, listening_page, open_talk):
    for page, player in (open_talk(), (opened := visit(listening_page), ready(opened))):
        player.locator(".seek").fill("1.5")
        duration = page.evaluate("document.querySelector('.player').player.duration")
        cursor = player.locator(".cursor").bounding_box()
        lanes = player.locator(".bars, .wave, .spectrum, .spikes .track").all()
        assert len(lanes) >= 4
        for lane in lanes:
            box = lane.bounding_box()
            middle = cursor["x"] + cursor["width"] / 2
            assert middle == pytest.approx(box["x"] + box["width"] * 1.5 / duration, abs=1.5)
            assert cursor["y"] <= box["y"] + 2
            assert cursor["y"] + cursor["height"] >= box["y"] + box["height"] - 1
        mark, whole = (player.locator(f".overview{part}").bounding_box() for part in (" .mark", ""))
        expected = whole["x"] + whole["width"] * 1.5 / duration
        assert mark["x"] + mark["width"] / 2 == pytest.approx(expected, abs=1.5)


def test_blocks_have_the_extremes_of_their_samples(visit, service):
    page = visit(service.url)
    samples = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    samples[256:512] = abs(samples[256:512])
    found = page.evaluate(
        "samples => { const { low, high } = extremes(samples); return [[...low], [...high]]; }",
        samples.tolist(),
    )
    blocks = [samples[k : k + 256] for k in range(0, 1000, 256)]
    expected = [
        [min(0, *block.tolist()) for block in blocks],
        [max(0, *block.tolist()) for block in blocks],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_spectrogram_is_stretched_while_the_view_moves_and_exact_afterwards(visit, listening_page):
    page = visit(listening_page, expected=("willReadFrequently",))
    player = ready(page)
    player.locator(".spectrum").scroll_into_view_if_needed()
    picture = "canvas => canvas.toDataURL()"
    spectrum = player.locator(".spectrum")
    page.wait_for_timeout(300)
    whole = spectrum.evaluate(picture)
    player.locator(".closer").click()
    until(lambda: spectrum.evaluate(picture) != whole)
    page.wait_for_timeout(400)
    settled = spectrum.evaluate(picture)
    page.evaluate(
        """() => { const { painter } = document.querySelector('.player').player;
          painter.painted = null; painter.decibels = {}; painter.paint(); }"""
    )
    assert spectrum.evaluate(picture) == settled
