"""Hardware: a batch in, the logits of its rows out; and the text-to-ids side of the same files."""
