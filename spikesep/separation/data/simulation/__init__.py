"""Simulation of real recordings: rooms, noise, damage and the timing of conversations."""
