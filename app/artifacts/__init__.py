"""Where artifacts lie: a folder, or an object store with a cache on each machine. Named by digest, written once."""
