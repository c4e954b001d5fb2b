"""One module for each kind of tokenizer; `choice` finds the one that a checkpoint has."""
