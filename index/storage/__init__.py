"""Where are files stored, and can their content be trusted?

Files and object stores, Parquet that is sized before it is read, manifests, and where a collection was made.
"""
