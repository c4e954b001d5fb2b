"""The use cases generate, chat and embed: from a call to a prompt, and from tokens to an answer."""
