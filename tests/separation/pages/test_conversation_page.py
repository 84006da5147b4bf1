"""The listening page of conversations: turns of the reference, and turns that were found."""

import io
import re

import numpy as np
import pytest
import soundfile
from helpers.web.pages import conversation_page, data_urls, lanes_of

from spikesep.separation.audio.files import read_audio
from spikesep.separation.data.kaldi import read_data_dir
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.model.separator import load_separator
from spikesep.separation.pages.sounds import find_turns
from spikesep.separation.scoring.voices import SeparatedVoices
from spikesep.separation.tracks.embedder import load_embedder
from spikesep.separation.tracks.rttm import read_rttm

SECONDS = 24.0
"""Longer than mixtures that are shown as a whole, unless they are conversations."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return conversation_page(tmp_path_factory.mktemp("talk"), SECONDS)


def utterances(page) -> list[str]:
    return re.findall(r'class="small">(\w+-0), rank', page)


def test_bars_of_the_reference_are_its_rttm(built):
    made, page = built
    lanes, shown = lanes_of(page), utterances(page)
    assert len(lanes) == len(shown) >= 2
    for split, example, utt in zip(("cv", "tt"), lanes, shown, strict=True):
        listed = read_rttm(made.data / split / "rttm")[utt]
        speakers = utt.partition("-")[0].split("_")
        for k, lane in enumerate(example):
            expected = [(a, b) for name, a, b in listed if name == speakers[k]]
            np.testing.assert_allclose(
                np.reshape(lane["reference"], (-1, 2)), np.reshape(expected, (-1, 2)), atol=0.011
            )
        assert sum(len(lane["reference"]) for lane in example) == SECONDS


def test_found_bars_are_the_turns_of_the_spiking_tracks(built):
    """Compare with tracks of the whole recording in memory."""
    made, page = built
    model = Model(load_separator(made.exp / "snn"), embedder=load_embedder(made.exp / "tracks"))
    for split, example, utt in zip(("cv", "tt"), lanes_of(page), utterances(page), strict=True):
        (mixture,) = [m for m in read_data_dir(made.data / split) if m.utt_id == utt]
        mixed = read_audio(mixture.mixture, model.sample_rate)
        sources = np.stack([read_audio(p, model.sample_rate) for p in mixture.sources])
        result = model.separate_recording(mixed, model.sample_rate, segment_seconds=10.0)
        voices = SeparatedVoices(result.estimates, np.zeros(3), result.turns[0])
        expected = find_turns(voices, sources, mixed, model.sample_rate)
        assert expected
        for k, lane in enumerate(example, start=1):
            own = [(turn.start, turn.stop) for turn in expected if turn.speaker == k]
            np.testing.assert_allclose(
                np.reshape(lane["found"], (-1, 2)), np.reshape(own, (-1, 2)), atol=0.011
            )


def test_conversations_are_shown_as_a_whole_in_mp3(built):
    _, page = built
    sounds = data_urls(page, "audio/mpeg")
    assert len(sounds) == 2 * (1 + 3 * 3)
    assert not data_urls(page, "audio/flac")
    for content in sounds:
        assert soundfile.info(io.BytesIO(content)).duration == SECONDS
    assert "MP3" in page
    assert "the voices of the SNN, which follow their speakers" in page


def test_without_an_embedder_the_page_says_what_the_bars_are(tmp_path):
    _, page = conversation_page(tmp_path, 5.0, has_embedder=False)
    assert "where the voices of the SNN are active" in page
    assert any(lane["found"] for example in lanes_of(page) for lane in example)
