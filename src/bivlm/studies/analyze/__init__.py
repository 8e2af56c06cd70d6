"""The weights of a full-precision model: how Gaussian they are, and what a salient tail gains."""
