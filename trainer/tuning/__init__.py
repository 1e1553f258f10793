"""Fine-tune an encoder step by step: what is replayed, what stays frozen, and how the weights are mixed at the end."""
