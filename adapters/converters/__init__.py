"""Converters: a model becomes one that another engine takes."""
