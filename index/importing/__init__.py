"""How does an archive become a studies table?

CheXpert, NIH and DICOM, pseudonyms, and whether films belong together.
"""
