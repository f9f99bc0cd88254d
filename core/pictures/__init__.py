"""Charts and grids, drawn with pillow: the host has no plotting library."""
