"""Corpora, mixtures, data directories, and the crops used for training."""
