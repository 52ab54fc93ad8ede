"""Writers of the scenes in each real layout of files: `write(root)` makes what its exporter would."""
