"""Statistics on plain numbers: intervals, paired tests, ranks, fronts, scores, and what a difference shows."""
