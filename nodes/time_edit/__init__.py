"""TIME in the graph."""
