"""The speech task: from recordings to mixtures, and from mixtures to separated voices."""
