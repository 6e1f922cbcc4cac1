"""Every refusal of the encoder: a `ValueError` that says what was expected, what was found, and the remedy."""


class EncoderError(ValueError):
    """Something given to the encoder cannot be used."""


class ImageError(EncoderError):
    """A film that is readable as a file but not usable as a radiograph."""


class NotAnImage(ImageError):
    """Bytes that are no JPEG, PNG or DICOM image at all."""


class WeightsError(EncoderError):
    """Backbone weights that are missing, out of reach, or made for another network."""


class CheckpointError(EncoderError):
    """An encoder file that is missing, truncated, or not written by Precedent."""


class RecipeError(EncoderError):
    """A training recipe with an unknown key or a value out of range."""
