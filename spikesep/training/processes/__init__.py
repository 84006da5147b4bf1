"""Distributed training and Slurm jobs."""
