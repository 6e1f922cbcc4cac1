"""What verbs found, as tables for a terminal, as JSON, and as pages that stand alone."""
