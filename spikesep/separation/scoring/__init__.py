"""Scores of a trained model on mixtures with known sources, and pages of results."""
