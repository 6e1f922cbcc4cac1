"""Benchmarks, a subject a file, and what they share: clock, simulated films and vectors, clients, other programs."""
