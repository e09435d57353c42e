"""Bindings at attention: tokens beside keys and values, and attention of a function's own."""
