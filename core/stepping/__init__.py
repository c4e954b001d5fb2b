"""The loop around an engine: requests in, steps, tokens to text, masks, limits."""
