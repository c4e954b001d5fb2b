"""Models that are made from other models, for engines that need another format."""
