"""What a caller may see and change, how much, and how often it may be wrong."""
