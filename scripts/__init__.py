"""The command line: arguments, progress bars and tables around encoder and index.

The only place, beside the service's loader, that knows both the encoder and the index.
"""
