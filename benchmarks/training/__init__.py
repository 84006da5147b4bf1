"""Training and conversion: time and memory over depth and time steps, and against a peer."""
