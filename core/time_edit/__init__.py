"""TIME: a closed-form edit of what a model assumes about a prompt (Orgad et al., arXiv 2303.08084)."""
