"""What engines and converters register, and what they need to be installed."""
