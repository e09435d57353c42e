"""An adaptation's files: plain data and tensors. Knows no model."""
