"""Scores of masks: each metric has update, compute and reset."""
