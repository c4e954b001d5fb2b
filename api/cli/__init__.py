"""The command line."""

from corral.api.cli.group import main

__all__ = ("main",)
