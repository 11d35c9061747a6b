"""Writes the table of config fields into docs/training.md: `python benchmarks/fields.py`.

Names and defaults are those of `tasks.heatmaps.Settings`, meanings those of the docstrings of its sections.
"""

import dataclasses
import inspect
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from kimnet_jax.core.files import write_text
from kimnet_jax.models import GIVEN, MODELS
from kimnet_jax.tasks.heatmaps import Settings

PAGE = pathlib.Path(__file__).resolve().parents[1] / 'docs/training.md'
MARKS = ('<!-- begin: written by benchmarks/fields.py -->\n', '<!-- end -->')


def meanings(kind: type) -> dict[str, str]:
    """Field -> what the section `Attributes` of the docstring says, of the class and of those that it extends."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        text = inspect.cleandoc(part.__dict__.get('__doc__') or '').partition('Attributes:\n')[2]
        entries = re.split(r'\n(?=[\w, ]+: )', inspect.cleandoc(text))
        for entry in entries:
            names, _, meaning = entry.partition(': ')
            found |= dict.fromkeys(names.split(', '), ' '.join(meaning.split()).rstrip('.'))
    return found


def rows(settings: Any, path: str = '') -> Iterator[tuple[str, Any, str]]:
    """(field, default, meaning) of a config and the sections in it, in order."""
    said = meanings(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from rows(value, f'{path}{field.name}.')
        elif isinstance(value, dict):  # `model`
            of_network = meanings(MODELS[value['name']].config)
            yield (
                f'{path}{field.name}.name',
                value['name'],
                'the network ([Models](models.md)); the next fields are those of `kimnet`',
            )
            yield from (
                (f'{path}{field.name}.{name}', value[name], of_network[name]) for name in value if name not in ('name', *GIVEN)
            )
        else:
            yield f'{path}{field.name}', value, said[field.name]


def table() -> str:
    """The table, Markdown."""
    lines = ['| field | default | meaning |', '|---|---|---|']
    lines += [f'| `{field}` | `{default!r}` | {meaning} |' for field, default, meaning in rows(Settings())]
    return '\n'.join(lines) + '\n'


def main() -> None:
    before, rest = PAGE.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    write_text(PAGE, before + MARKS[0] + table() + MARKS[1] + after)


if __name__ == '__main__':
    main()
