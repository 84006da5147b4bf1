"""Synapses: the kinds that can be converted, and how their inputs reach their outputs."""
