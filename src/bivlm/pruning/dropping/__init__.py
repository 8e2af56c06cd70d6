"""How tokens are removed from a running model: in the vision tower, the language model, its cross-attention
and its cache. A pruner chooses the tokens that stay; none of these modules is a pruner.
"""
