"""Conceptor: a concept as a sparse weighted sum of the model's own words (Chefer et al., arXiv 2306.00966)."""
