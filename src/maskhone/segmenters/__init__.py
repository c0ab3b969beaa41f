"""Base models: they make scores from a picture alone."""
