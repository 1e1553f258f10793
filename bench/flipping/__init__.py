"""What `bench/flips.py` is made of: versions that name themselves, services, clients, and what they were told."""
