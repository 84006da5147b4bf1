"""Pre-training and conversion of networks, as runs that can be resumed."""
