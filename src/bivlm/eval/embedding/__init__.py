"""Models as embedding models: vectors of texts and images, and what packing does to a search with them."""
