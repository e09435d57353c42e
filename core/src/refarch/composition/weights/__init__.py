"""Operators computed once."""
