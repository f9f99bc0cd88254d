"""The command line of the methods, without ComfyUI."""
