"""The HTTP server: one router per API family, over a `Runtime`."""
