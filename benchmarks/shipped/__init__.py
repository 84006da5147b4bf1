"""Benchmarks of the shipped model."""
