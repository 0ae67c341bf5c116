"""ALBERT against BERT, measured: `python -m bench.compare`. See docs/albert-vs-bert.md."""
