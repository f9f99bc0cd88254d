"""Worlds whose truth is known: what any of them needs. Each has a folder: its data, recipe, truth and weights."""
