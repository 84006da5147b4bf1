"""The listening page and the server that separates uploads."""

from spikesep.separation.pages.listening_page import build_page

__all__ = ["build_page"]
