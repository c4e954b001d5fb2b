"""The conformance kit: one suite per port, for a plugin's tests to subclass."""
