"""Separation of recordings and streams with a trained model."""
