"""Success against compute."""
