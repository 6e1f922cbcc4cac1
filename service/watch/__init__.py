"""How is the service doing? Metrics, logs, and the stages of a request."""
