"""The generative route: one prompt, labels scored word by word over a trie, and the process that serves it."""
