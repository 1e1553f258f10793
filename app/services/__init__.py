"""What may happen to the rows: one function is one unit of work, with the session first; only `app.db.session` commits."""
