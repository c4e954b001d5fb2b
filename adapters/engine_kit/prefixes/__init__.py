"""Computed prefixes of prompts, kept in host memory and on disk for engines that can save and restore their states."""
