"""Files of a training run: checkpoints, history, figures and models."""
