"""The spiking core: neurons, convertible layers, conversion. It knows tensors; no audio, images or files."""
