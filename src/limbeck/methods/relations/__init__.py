"""Methods that match relations: between examples of a batch, between channels, between positions."""
