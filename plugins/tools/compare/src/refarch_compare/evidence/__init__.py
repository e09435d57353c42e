"""Evidence: what runs left and what was imported, as rows that can be queried."""
