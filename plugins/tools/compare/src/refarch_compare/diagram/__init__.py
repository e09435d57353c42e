"""A transformer layer with the modules of techniques in their slots, drawn from the spec."""
