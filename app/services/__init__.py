"""What may happen to the rows: one function is one unit of work; only `app.db.session` commits."""
