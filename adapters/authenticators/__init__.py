"""Who sends a request: keys in a file."""
