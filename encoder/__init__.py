"""Turns films into unit vectors and explains them.

Knows torch, timm, opencv, pillow and pydicom; knows nothing of FAISS, HTTP or tables of studies.
"""
