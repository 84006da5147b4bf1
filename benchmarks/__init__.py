"""Benchmarks: one module per claim. Run all with `python -m benchmarks`."""
