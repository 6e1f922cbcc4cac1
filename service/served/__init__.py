"""What answers a request?

Mounted collections, the reader of films, and batches; it lives as long as the process.
"""
