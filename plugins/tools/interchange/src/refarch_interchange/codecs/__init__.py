"""The code of mappings whose tensors no rule describes alone."""
