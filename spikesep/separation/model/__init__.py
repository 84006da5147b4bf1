"""The separator: the network, its asteroid class, its model card, and where models are found."""
