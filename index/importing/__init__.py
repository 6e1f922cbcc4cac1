"""How does an archive become a studies table, and what another encoder made of it an export?

Tables of data sets and DICOM, pseudonyms, whether films belong together, and vectors in files of other programs.
"""
