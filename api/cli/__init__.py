"""The command line."""

from corral.api.cli.command_group import main

__all__ = ("main",)
