"""Adaptation of a separator to the voices of a user's own recordings."""
