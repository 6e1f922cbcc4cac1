"""The command line: argv, progress bars and tables around the two wings.

The only place, beside the service's loader, that knows both the encoder and the index.
"""
