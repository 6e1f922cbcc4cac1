"""Benchmarks, a subject a file, and what they share: the clock, made films and vectors, the plain ways, clients."""
