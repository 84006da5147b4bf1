"""The listening page of an experiment, and the server that separates uploaded recordings."""
