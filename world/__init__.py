"""EmojiWorld: a small text-to-image model whose truth is known: its data, recipe, weights, judges and evaluation."""
