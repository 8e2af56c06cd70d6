"""Low-rank adapters next to packed linears: the module, its folder on the disk, its bits."""
