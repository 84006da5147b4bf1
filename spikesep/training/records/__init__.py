"""What a run leaves on disk: checkpoints, history, figures, models."""
