"""Answer parsers: what of an answer is thinking, tool calls and visible text."""
