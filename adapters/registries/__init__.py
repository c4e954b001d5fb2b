"""Registries that models are pulled from and pushed to."""
