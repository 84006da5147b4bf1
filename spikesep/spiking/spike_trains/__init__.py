"""Spikes as bit words, the compiled loops over them, and their cache."""
