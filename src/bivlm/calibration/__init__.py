"""What reaches each block and each linear, and what corrects them for it. Nothing here writes a file."""
