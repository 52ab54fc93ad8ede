"""From files to batches: archives, images, readers, augmentation, loader."""
