"""How do films come from a PACS, and what is found go back to it?

DICOMweb and Orthanc's own interface over HTTP, DICOM over TCP, and the process that follows a PACS.
"""
