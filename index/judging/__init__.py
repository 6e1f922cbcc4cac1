"""How good are the neighbours?

Retrieval metrics with their chance level, confidence intervals by patient, and what counts as relevant.
"""
