"""Image segmentation with a plain Vision Transformer: the Encoder-only Mask Transformer (arXiv 2503.19108)."""
