"""Metrics, and the evaluation of a segmenter on a data set."""
