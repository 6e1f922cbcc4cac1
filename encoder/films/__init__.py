"""What does a file of a film hold?

From bytes of DICOM or a picture to pixels, and from pixels to the network's input.
"""
