"""Models in memory and the way of a question through them; knows no database, it is told what to load."""
