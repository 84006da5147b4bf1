"""Lightning module and callbacks of pre-training."""
