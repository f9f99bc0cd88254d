"""The same core without ComfyUI: diffusers adapter, command line, demo."""
