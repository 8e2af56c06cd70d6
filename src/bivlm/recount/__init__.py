"""The true bits of anybody's checkpoint, counted from the headers of its files; nothing here imports torch."""
