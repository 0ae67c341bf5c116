"""Versions of models while the service runs: loaded beside one another, tried, switched, freed."""
