"""The queue between requests and an engine."""
