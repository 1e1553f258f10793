"""Heads on embeddings, and how they are fitted without torch."""
