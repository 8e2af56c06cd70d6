"""A server that answers many clients with one model: requests that wait are answered together."""
