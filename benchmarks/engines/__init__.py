"""Engines of converted layers against other simulators of the same spikes."""
