"""Simulated chest films: one parametric chest a patient, seen from the front and the side, with known findings.

Their ground truth is exact: which findings a study has, and in which pixels of each film they show.
"""
