"""The one error of this room, and how a file name is written into its message."""

from sfumato.errors import DataError, decoding, naming, one_line, shortened, shown

__all__ = ["DataError", "decoding", "naming", "one_line", "shortened", "shown"]
