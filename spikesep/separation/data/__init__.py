"""Corpora, mixtures and data directories, and the crops that training takes from them."""
