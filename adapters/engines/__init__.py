"""The engines, each in a package that knows nothing of the others."""
