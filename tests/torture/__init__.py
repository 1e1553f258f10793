"""The long forms of what must never happen: killed, starved and lied to for hours, with a seed and a report."""
