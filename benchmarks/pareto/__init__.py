"""Quality over cost: what is recorded, measured without training, and published."""
