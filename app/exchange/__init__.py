"""Files of other tools, in and out: each row answers for itself, and a hostile file costs bounded memory."""
