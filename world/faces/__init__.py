"""FaceWorld: faces whose attributes are known, and a model whose bottleneck has to carry them."""
