"""Where in a film does an answer come from?

Grad-CAM and its relatives, for similarity and for findings, and how far such a map can be relied on.
"""
