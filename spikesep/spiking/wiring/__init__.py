"""Connections between the layers of a network: the signals that each synapse receives."""
