"""Matching, loss, optimiser and schedules, and the loop that uses them."""
