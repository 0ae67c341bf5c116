"""Tokenizers: those of checkpoints, and new ones learned from text."""
