"""Bertie's training module: text to task checkpoints, and checkpoints to gated bundles that `service` serves."""
