"""Where do bytes lie, and may they be believed?

Files and object stores, Parquet that is sized before it is read, manifests, and where a collection was made.
"""
