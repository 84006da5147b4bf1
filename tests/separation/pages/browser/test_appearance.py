import re
from itertools import combinations

import pytest
from helpers.web.browser import (
    choose,
    drop,
    playwright,
    ready,
    tone,
)


def test_colours_follow_the_system_until_they_are_switched(visit, listening_page, service):
    colour = "getComputedStyle(document.body).backgroundColor"
    brightness = f"{colour}.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    corner = """canvas => canvas.getContext('2d').getImageData(5, 5, 1, 1).data
      .slice(0, 3).reduce((a, b) => a + b, 0)"""
    assert visit(service.url, color_scheme="light").evaluate(brightness) > 650
    for url in (service.url, listening_page):
        page = visit(url, color_scheme="dark", expected=("willReadFrequently",))
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


def test_pages_fit_on_a_phone(visit, listening_page, service):
    for url in (listening_page, service.url):
        page = visit(url, width=360, height=740)
        if url == service.url:
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


def test_sounds_fall_back_to_the_players_of_the_browser(visit, listening_page):
    for options in (
        {"java_script_enabled": False},
        {"before": "delete window.OfflineAudioContext"},
    ):
        page = visit(listening_page, **options)
        playwright.expect(page.locator("article").first.locator("audio:visible")).to_have_count(7)
        dead = "canvas:visible, .transport:visible, .theme:visible, button:visible, input:visible"
        playwright.expect(page.locator(dead)).to_have_count(0)


def test_silent_recording_is_reported_and_drawn_as_silence(visit, service):
    page = visit(service.url, color_scheme="light", expected=("willReadFrequently",))
    choose(page, ("silence.wav", tone(0.5, 8000, gain=0)))
    player = ready(page)
    assert player.get_by_text("This recording is silent.").is_visible()
    assert player.locator(".level").first.inner_text() == "silent"
    page.keyboard.press("1")
    page.evaluate("document.querySelector('.player').player.painter.paint()")
    pixels = "canvas => [...canvas.getContext('2d').getImageData(9, 9, 1, 1).data.slice(0, 3)]"
    assert min(player.locator(".spectrum").evaluate(pixels)) > 240
    choose(page, ("talk.wav", tone(0.5, 8000)))
    playwright.expect(player.locator(".silent")).to_be_hidden()


def test_levels_are_shown_and_operations_folded(visit, service, listening_page):
    page = visit(service.url)
    drop(page, ("talk.wav", tone(1, 8000)))
    player = ready(page)
    assert re.fullmatch(
        r"1\.0 s at 8000 Hz, separated in .*", player.locator(".report").inner_text()
    )
    assert player.locator(".level").first.inner_text() == "peak −10.5, mean −16.0 dBFS"
    folds = {
        "Operations of the network": (page, ".work"),
        "What it costs": (visit(listening_page), "dl >> nth=1"),
    }
    for summary, (opened, hidden) in folds.items():
        assert not opened.locator(hidden).is_visible()
        opened.locator("summary", has_text=summary).click()
        assert "multiply-accumulate" in opened.locator(hidden).inner_text()


@pytest.mark.parametrize("size", [(1100, 900), (360, 740)], ids=["desk", "phone"])
def test_first_screen_of_the_listening_page_has_a_player(visit, listening_page, size):
    page = visit(listening_page, *size)
    button = ready(page).locator(".play").bounding_box()
    assert button["y"] + button["height"] < size[1]
    assert page.evaluate("scrollY") == 0


def test_without_javascript_the_service_page_names_the_command(visit, service):
    page = visit(service.url, java_script_enabled=False)
    assert page.locator("noscript p").is_visible()
    assert (
        "spikesep-infer recording.wav --out-dir voices" in page.locator("noscript p").inner_text()
    )
    playwright.expect(page.locator("button:visible, input:visible, .button:visible")).to_have_count(
        0
    )


def test_forced_colours_keep_the_choice_the_cursor_and_the_buttons(visit, service):
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


def test_controls_and_landmarks_have_accessible_names(visit, listening_page, service):
    """Two rules of axe-core: label-content-name-mismatch, landmark-unique."""
    controls = """() => [...document.querySelectorAll("button, a, summary, label")]
      .map((e) => [
        e.getAttribute("aria-label") ?? e.querySelector("[aria-label]")?.getAttribute("aria-label"),
        (e.querySelector("b") ?? e).innerText.trim().toLowerCase(),
      ])
      .filter(([name, text]) => name && !name.toLowerCase().includes(text))
      .map(([name]) => name)"""
    landmarks = """() => [...document.querySelectorAll("section, [role=region]")].map((e) =>
      e.getAttribute("aria-label") ??
      document.getElementById(e.getAttribute("aria-labelledby"))?.textContent)"""
    for url in (listening_page, service.url):
        page = visit(url)
        if url == service.url:
            drop(page, ("talk.wav", tone(0.5, 8000)))
        ready(page)
        assert page.evaluate(controls) == []
        names = page.evaluate(landmarks)
        assert None not in names
        assert len(set(names)) == len(names)
