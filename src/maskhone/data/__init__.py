"""Formats in and out: one file per format, a reader beside its writer."""
