"""Scorers: what a model that is already built is worth, one file a scorer."""
