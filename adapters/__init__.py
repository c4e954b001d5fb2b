"""Connects core to the outside world: one module for each outside thing, behind a port."""
