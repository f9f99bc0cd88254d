"""Conceptor in the graph: words, mixes, explanations, bias."""
