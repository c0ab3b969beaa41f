"""Blocks and losses that several networks share."""
