"""The listening page: one folder that opens from the disk, with sounds, spectrograms and scores side by side."""

from spikesep.separation.demo.page import build_page

__all__ = ["build_page"]
