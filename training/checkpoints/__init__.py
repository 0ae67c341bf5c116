"""Folders and files of others: configs, weights, and what stands in them."""
