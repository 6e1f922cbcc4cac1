"""Which addresses are there? The only folder that registers routes."""
