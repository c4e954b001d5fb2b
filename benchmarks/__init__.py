"""Measures model servers over HTTP: ``python -m benchmarks --help``."""
