"""How tokens leave a running model: in the vision tower, the language model, its cross-attention and its
cache. What stays is for a pruner to say; none of these is one.
"""
