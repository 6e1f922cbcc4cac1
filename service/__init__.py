"""The HTTP edge: routes, the page, and the one place where an index and an encoder meet.

It asks for an embedder through `service.served.embedder.Embedder`.
"""
