"""The backbone's own layers as matrices: read, written, split into parts, in which precision."""
