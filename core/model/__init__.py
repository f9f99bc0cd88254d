"""How core sees a model, whichever program has loaded it."""
