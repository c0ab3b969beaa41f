"""The refinement methods, neighbours and strangers to each other."""
