"""One module a claim; each prints a table. Run as `python -m benchmarks.NAME`."""
