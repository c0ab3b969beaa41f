"""maskhone: give it a picture and a rough segmentation mask; it returns a better mask."""

__version__ = "0.1.0"
