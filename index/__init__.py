"""Keeps studies and vectors, and finds neighbours.

Knows numpy, pandas, pyarrow and FAISS; imports and works where torch is absent.
"""
