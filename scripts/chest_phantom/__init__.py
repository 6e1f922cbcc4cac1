"""Simulated chest films: one parametric chest a patient, seen from the front and the side, with planted findings.

Makes collections whose truth is known to the pixel; knows neither encoder nor index.
"""

from scripts.chest_phantom.collection import CollectionSummary, write_collection
from scripts.chest_phantom.findings import PLANTED_FINDINGS

__all__ = ["PLANTED_FINDINGS", "CollectionSummary", "write_collection"]
