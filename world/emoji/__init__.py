"""EmojiWorld: emoji whose names, keywords, colours and shares are known, for Conceptor and TIME."""
