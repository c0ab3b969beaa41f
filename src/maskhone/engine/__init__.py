"""Weights, batched inference and one training loop; none of them knows a method."""
