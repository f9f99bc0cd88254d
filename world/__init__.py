"""EmojiWorld: a small text-to-image model whose truth is known. So far: its pictures, captions and ground truth."""
