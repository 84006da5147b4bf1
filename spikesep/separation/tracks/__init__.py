"""Tracks that follow their speakers: activity, embedding, assignment, and the gate."""
