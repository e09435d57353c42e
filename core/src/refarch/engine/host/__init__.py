"""What one model carries, once for all that is on it."""
