"""Errors that are the user's to mend: one sentence that names the file or field and says what to do."""

from collections.abc import Sequence

_SHOWN = 8  # parts of a list


class InputError(ValueError):
    """Bad input, a bad setting, or a file that is not what it should be. Commands print it without a traceback."""


class DamagedError(InputError):
    """A file whose content cannot be trusted: cut short, altered, not decodable."""


def one_line(error: object) -> str:
    """What an error says, as a command prints it: of a list, a part on each line, the first few parts."""
    first, *parts = str(error).splitlines() or ['']
    more = [f'and {len(parts) - _SHOWN} more'] if len(parts) > _SHOWN else []
    return ' '.join(filter(None, [first, '; '.join([*parts[:_SHOWN], *more])]))


def some_of(names: Sequence[object]) -> str:
    """The first few names, and how many there are more."""
    more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    return ', '.join(map(str, names[:_SHOWN])) + more
