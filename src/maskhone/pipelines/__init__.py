"""Whole jobs over files: refine, evaluate, train."""
