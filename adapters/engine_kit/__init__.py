"""What engines share: admission, token ids, long texts, threads, and choosing tokens from logits."""
