"""Classical refiners that need no weights."""
