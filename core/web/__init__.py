"""The web: searched through a provider, its pages fetched; only if the settings say so."""
