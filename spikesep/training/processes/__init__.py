"""Several processes as one training run, and commands as Slurm jobs."""
