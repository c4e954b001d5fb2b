"""Which models are in memory, on which engine, for how long, and who uses them."""
