"""Fixtures of the tests in a browser."""

import shutil
import threading

import pytest


@pytest.fixture(scope="module")
def browser():
    """Start Chromium."""
    from helpers.web.browser import CHROMIUM, MICROPHONE, playwright

    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *MICROPHONE]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Return a function that opens an address.

    At the end, no page has sent requests to other hosts, or logged messages without a part of
    `expected`.
    """
    pages = []

    def visit(address, width=1100, height=900, expected=(), before="", **options):
        page = browser.new_context(
            viewport={"width": width, "height": height}, **options
        ).new_page()
        page.add_init_script(before)
        requested, messages = [], []
        page.on("request", lambda request: requested.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(address)
        pages.append((page, address, requested, messages, expected))
        return page

    yield visit
    for page, address, requested, messages, expected in pages:
        page.context.close()
        assert all(url.startswith((address, "data:", "blob:")) for url in requested), requested
        assert [text for text in messages if not any(part in text for part in expected)] == []


@pytest.fixture(scope="module")
def listening_page(tmp_path_factory) -> str:
    """Build a listening page; first voices are below 500 Hz, second voices above 850 Hz."""
    from helpers.experiments import make_experiment, write_mixtures
    from helpers.web.browser import SECONDS

    from spikesep.separation.config import DemoConfig, ScoringConfig
    from spikesep.separation.pages.listening_page import build_page
    from spikesep.separation.scoring.score import score_experiment

    experiment = make_experiment(tmp_path_factory.mktemp("page"))
    for number, name in enumerate(("cv", "tt")):
        shutil.rmtree(experiment.data / name)
        write_mixtures(experiment.data / name, seed=number, n=2, seconds=SECONDS)
    score_experiment(experiment.data, experiment.exp, ScoringConfig(metrics=[]), n_jobs=1)
    return build_page(
        experiment.data, experiment.exp, experiment.exp / "demo", DemoConfig()
    ).as_uri()


@pytest.fixture(scope="module")
def service():
    """Return a running service that accepts recordings of up to a minute."""
    from helpers.separators import tiny_separator
    from helpers.web.serve import serving

    from spikesep.separation.inference.in_memory import Model
    from spikesep.separation.pages.uploads import Limits

    with serving(Model(tiny_separator()), Limits(seconds=60)) as running:
        yield running


@pytest.fixture
def blocks(service, monkeypatch):
    """Return a semaphore that each block of the network acquires first."""
    gate, network = threading.Semaphore(0), service.model.separator.encode_frames

    def waiting(samples):
        return gate.acquire(timeout=10) and network(samples)

    monkeypatch.setattr(service.model.separator, "encode_frames", waiting, raising=False)
    yield gate
    gate.release(100)
