"""Who asked what, and with which result? The log of each request, chained so that a change shows."""
