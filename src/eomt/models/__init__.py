"""Models with one contract: uint8 images in, the query logits of every supervised layer out."""
