"""Reads templates of Go's package ``text/template``: tokens, trees, and what a tree says about a chat template."""
