"""Scores of a task on labelled data, and how far they can be trusted."""
