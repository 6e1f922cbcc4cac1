"""Which studies are there?

The studies table, its labels and their policies, filters over it, and splits by patient.
"""
