"""Graphs for other programs, and these programs."""
