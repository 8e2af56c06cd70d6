"""What a model answers, how good the answers are, and how far it is from the model that it came from."""
