"""From an analog network to a spiking one: thresholds, tandem learning, pruning, fixed point."""
