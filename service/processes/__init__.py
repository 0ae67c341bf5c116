"""Several processes at one port: where each runs, what they tell one another, and who looks after them."""
