"""Which studies of other patients are most similar?

From a query vector to ranked hits, the vote of their findings, and whether the query is familiar at all.
"""
