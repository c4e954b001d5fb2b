"""``/v1/responses``: its requests, items and events."""
