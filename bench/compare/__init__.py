"""ALBERT against BERT, measured: `python -m training compare`. See docs/albert-vs-bert.md."""
