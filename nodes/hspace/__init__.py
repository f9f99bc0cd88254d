"""Directions of h-space in the graph."""
