"""Keeps studies and vectors, and finds neighbours.

It works where torch is not installed.
"""
