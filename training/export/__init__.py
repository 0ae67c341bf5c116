"""A fine-tuned checkpoint to a bundle, through the gate, and back."""
