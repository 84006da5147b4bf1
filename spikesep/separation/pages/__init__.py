"""The listening page of an experiment, and the server that separates uploaded recordings."""

from spikesep.separation.pages.listening_page import build_page

__all__ = ["build_page"]
