"""Learning with the levels of spike counts, and with the step between them, before conversion."""
