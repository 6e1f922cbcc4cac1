"""What do verbs do together? Exports, learning, and servers: what is neither an option nor a report."""
