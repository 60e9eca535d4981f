"""Paired, clustered comparison: effects, intervals and tests. Pure numpy and scipy."""
