"""What a model server is: values, ports, use cases and errors. Imports the standard library and msgspec only."""
