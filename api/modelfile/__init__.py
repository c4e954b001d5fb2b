"""Modelfiles."""
