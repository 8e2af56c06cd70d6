"""A model's answers, how good they are, and how far the model is from its full-precision original."""
