"""The database: how it is reached, and what its tables are."""
