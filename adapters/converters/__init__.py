"""Converters of models into formats that other engines run."""
