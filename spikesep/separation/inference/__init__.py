"""Separation of recordings and streams with a trained model."""

STDIN, MICROPHONE = "-", "mic"
"""What stands for a recording that is no file."""
