"""Checkpoints of the adapters library (AdapterHub), read."""
