"""The heart of intentloop: pure rules over plain values; no I/O, no database, no torch."""
