"""The band of recordings above the network's, in voices."""
