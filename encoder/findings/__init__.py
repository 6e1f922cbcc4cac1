"""Which findings does a vector show?

The linear probe: logistic regression, calibrated probabilities, and how well each finding is separated.
"""
