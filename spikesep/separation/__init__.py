"""The speech task: from recordings to two-speaker mixtures, and from mixtures to separated voices."""
