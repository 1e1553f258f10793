"""What the benchmarks of a running service share: the load generator, and an installation to put under load."""
