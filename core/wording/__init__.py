"""How errors and lists are worded: suggestions, commands to paste, text that is safe to print."""
