"""One question to several models, in one picture to share."""
