"""Which techniques suit a task, a backbone and limits, with reasons, and what would be worth measuring next."""
