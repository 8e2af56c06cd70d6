"""The true bits of anybody's checkpoint, counted from the headers of its files. Nothing imports torch."""
