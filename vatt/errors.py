"""The root of the errors a user can cause and mend. It imports nothing, so that everything may import it."""


class VattError(Exception):
    """Wrong input, a missing file, or things that do not fit together; the message says what, where and what next."""


class InputError(VattError, ValueError):
    """A value that cannot be used."""


class WriteError(VattError, OSError):
    """A file that cannot be written, because the disk is full or read-only."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}"


class DirectoryInUse(InputError):
    """The directory is locked by another process that is writing to it."""


class ManifestError(VattError, ValueError):
    """A manifest that cannot be used. The message names the file and, for single cells, the line and the column."""
