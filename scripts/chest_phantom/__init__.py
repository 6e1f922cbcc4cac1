"""Simulated chest films: one parametric chest a patient, seen from the front and the side, with known findings.

Makes collections whose truth is known to the pixel; knows neither encoder nor index.
"""
