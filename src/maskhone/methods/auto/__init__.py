"""Auto: several methods look at every mask, and what they agree on is taken."""
