"""Bundles on disk: found, checked, opened."""
