"""Two GGUF models side by side: how far their predictions differ (`divergence`), and how fast they are (`speeds`)."""
