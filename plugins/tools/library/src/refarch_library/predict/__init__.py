"""Use what was trained: many adaptations on one backbone."""
