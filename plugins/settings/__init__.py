"""What can be set, and the layers that settings come in."""
