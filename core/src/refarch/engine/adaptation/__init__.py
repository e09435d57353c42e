"""A technique bound to one model: planned, attached, loaded, merged, trained."""
