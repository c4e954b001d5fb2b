"""What programs written in Go read and write: durations, quotes, errors in JSON."""
