"""One file per change of the schema, each with a way back."""
