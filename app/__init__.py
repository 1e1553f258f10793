"""intentloop: active learning for text classification around a database."""

__version__ = "0.1.0"
