"""Directions in the bottleneck of a UNet, its h-space (Kwon et al., 2022; Haas et al., arXiv 2303.11073)."""
