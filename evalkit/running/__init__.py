"""Drives the jobs of a plan, stores every outcome at once, takes what the store knows."""
