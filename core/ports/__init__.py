"""The interfaces of everything outside core."""
