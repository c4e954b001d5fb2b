"""What a caller asks for and gets: messages, prompts, options, requests, outputs."""
