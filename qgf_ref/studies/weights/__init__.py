"""Success against the guidance weight."""
