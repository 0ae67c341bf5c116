"""A recipe to a fine-tuned checkpoint."""
