"""Chat templates in Jinja, in a sandbox that meters them."""
