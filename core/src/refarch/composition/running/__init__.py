"""Operators in each forward pass."""
