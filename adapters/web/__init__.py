"""The web: SearXNG's search, and pages that are fetched from addresses which have been checked."""
