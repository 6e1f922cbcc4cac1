"""Who may ask for what? Tokens, sessions, origins, and how exactly similarities are shown."""
