"""What was asked, by whom, and what came of it? The log of each request, chained so that a change shows."""
