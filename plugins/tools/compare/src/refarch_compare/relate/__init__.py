"""Which structural properties go with which results, and what the evidence cannot separate."""
