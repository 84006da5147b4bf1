"""Fixtures of the commands' tests."""

import io
import sys

import pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return an experiment folder with a tiny analog and a tiny fixed-point separator."""
    from helpers.separators import save_tiny_experiment

    return save_tiny_experiment(tmp_path_factory.mktemp("exp"), identity="sum")


@pytest.fixture
def pipe(monkeypatch):
    """Return a function that puts bytes on standard input and returns binary standard output."""

    def put(content: bytes) -> io.BytesIO:
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)))
        stdout = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        return stdout.buffer

    return put
