"""Sources that models are fetched from, other than registries."""
