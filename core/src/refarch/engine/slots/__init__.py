"""From a family's table to the sites of one model, all or an error."""
