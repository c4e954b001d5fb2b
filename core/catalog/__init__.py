"""The models of a store: looked up, imported, pulled, pushed, published, inspected and deleted."""
