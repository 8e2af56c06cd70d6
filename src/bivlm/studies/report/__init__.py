"""One page about several evaluations, and one picture to share."""
