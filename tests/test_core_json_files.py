"""What JSON of others may not be."""

import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.json_files import parse_json, read_json

VALID = b'{"a": [1, 2.5e10, -3], "b": "\\u00e9"}'


def test_a_byte_order_mark_changes_nothing():
    assert parse_json(b'\xef\xbb\xbf' + VALID, 'x') == parse_json(VALID, 'x') == {'a': [1, 2.5e10, -3], 'b': 'é'}


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('[' * 100_000, 'nested more than 100 deep'),
        ('[' * 101 + ']' * 101, 'nested more than 100 deep'),
        ('{"a":' * 150 + '1' + '}' * 150, 'nested more than 100 deep'),
        ('[' + '9' * 5000 + ']', 'not valid JSON'),
        ('[' + '9' * 400 + ']', 'a number of 400 digits is too large'),
        ('[-' + '9' * 400 + ']', 'is too large'),
        ('[1e999]', 'the number 1e999 is too large'),
        ('[' + '9' * 250 + 'e90]', 'is too large'),
        ('[NaN]', 'NaN is no number that JSON knows; write null for what is missing'),
        ('[-Infinity]', '-Infinity is no number'),
        ('{"a": 1, "b": 2, "a": 1}', "the name 'a' is there twice in one object"),
        (VALID.decode().encode('utf-16'), 'not UTF-8 text'),
        (b'["\xff"]', 'not UTF-8 text'),
        ('', 'not valid JSON'),
        ('[1] [2]', 'not valid JSON'),
    ],
)
def test_what_is_refused(text, told, tmp_path):
    with pytest.raises(InputError, match=f'^x: .*{told}') as caught:
        parse_json(text, 'x')
    assert len(str(caught.value).splitlines()) == 1
    file = tmp_path / 'x.json'
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f'^{file}: .*{told}'):
        read_json(file)


def test_what_is_large_and_deep_and_allowed():
    assert parse_json('[' * 100 + ']' * 100, 'x')
    assert parse_json('["' + '[' * 500 + '"]', 'x') == ['[' * 500]
    assert parse_json('[' + '9' * 300 + ', 1e300]', 'x') == [int('9' * 300), 1e300]
