"""The demo: the embedded small model in full precision and packed in several ways, in one table."""
