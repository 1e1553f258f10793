"""Benchmarks: what is promised as a number, measured beside an anchor in the same run."""
