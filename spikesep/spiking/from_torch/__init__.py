"""From an `nn.Sequential` to a spiking network, checked to compute the same."""
