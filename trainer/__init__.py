"""Train artifacts in a process of its own: a spec file in, an artifact folder out, no database."""
