"""Scores of trained models on mixtures with known sources, and their tables."""
