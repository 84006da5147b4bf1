"""How the layers of a network are connected: which signals each synapse receives."""
