"""Recordings for tests: encoders, and synthetic speech."""
