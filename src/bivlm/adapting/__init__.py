"""Training an adapter for a packed model."""
