"""What techniques are: typed features derived from specs, compared, measured and drawn as a map."""
