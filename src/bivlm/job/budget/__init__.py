"""A budget of true bits: how sensitive the answers are to each group of linears, and the bits of each."""
