"""ANN-to-SNN converters compared on the same trained networks; see `comparison`."""
