"""From query logits to predictions in the pixels of the original image."""
