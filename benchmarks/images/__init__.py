"""Training of image networks: throughput of its parts."""
