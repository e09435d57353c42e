"""A function joined to a model at one site."""
