"""Errors that are the user's to mend: one sentence that names the file or field and says what to do."""


class InputError(ValueError):
    """Bad input, a bad setting, or a file that is not what it should be. Commands print it without a traceback."""


class DamagedError(InputError):
    """A file whose content cannot be trusted: cut short, altered, not decodable."""
