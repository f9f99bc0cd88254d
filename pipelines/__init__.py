"""Diffusers pipelines through core's protocols: usable without the command line."""
