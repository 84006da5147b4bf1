"""Image data sets: download, cache, batches and augmentation."""
