import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.interop.translation import (
    BATCH_NORM,
    CONV,
    CONV_TRANSPOSE,
    DROPPED,
    LINEAR,
    Rule,
    places,
    prefixed,
    translate,
    translate_back,
)

TABLE = (
    Rule(r'conv(\d)', r'layers.\1', CONV),
    Rule('up', 'up', CONV_TRANSPOSE),
    Rule('bn', 'norm', BATCH_NORM),
    Rule('fc', 'head', LINEAR),
    Rule('unused', '', DROPPED),
)


def entries():
    random = np.random.default_rng(0)
    shapes = {
        'conv7.weight': (2, 3, 5, 7),
        'conv7.bias': (2,),
        'up.weight': (3, 2, 4, 4),
        'bn.weight': (2,),
        'bn.bias': (2,),
        'bn.running_mean': (2,),
        'bn.running_var': (2,),
        'fc.weight': (5, 3),
        'unused.weight': (1, 2),
    }
    return {key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items()} | {
        'bn.num_batches_tracked': np.array(41)
    }


def test_axes_and_names():
    source = entries()
    ours = translate(source, TABLE)
    assert {path: array.shape for path, array in ours.items()} == {
        'layers.7.kernel': (5, 7, 3, 2),
        'layers.7.bias': (2,),
        'up.kernel': (4, 4, 3, 2),
        'norm.scale': (2,),
        'norm.bias': (2,),
        'norm.mean': (2,),
        'norm.var': (2,),
        'head.kernel': (3, 5),
    }
    assert ours['layers.7.kernel'][4, 6, 2, 1] == source['conv7.weight'][1, 2, 4, 6]
    assert ours['up.kernel'][3, 1, 2, 0] == source['up.weight'][2, 0, 3, 1]
    assert ours['head.kernel'][2, 4] == source['fc.weight'][4, 2]


def test_back_is_the_inverse_and_the_template_gives_what_is_dropped():
    source = entries()
    back = translate_back(translate(source, TABLE), TABLE, source)
    assert list(back) == list(source)
    for key, array in source.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
        assert back[key].dtype == array.dtype


def test_back_takes_only_shapes_from_the_template():
    source = entries()
    back = translate_back(translate(source, TABLE), TABLE, {key: np.zeros_like(array) for key, array in source.items()})
    np.testing.assert_array_equal(back['conv7.weight'], source['conv7.weight'])
    assert not back['unused.weight'].any()
    assert back['bn.num_batches_tracked'] == 0


def test_all_that_does_not_fit_on_the_way_back_is_listed():
    source = entries()
    ours = translate(source, TABLE)
    del ours['norm.mean']
    ours['extra.kernel'] = np.zeros(1, np.float32)
    ours['head.kernel'] = np.zeros((2, 5), np.float32)
    with pytest.raises(InputError) as error:
        translate_back(ours, TABLE, source | {'other.weight': np.zeros(2)})
    assert sorted(str(error.value).splitlines()[1:]) == [
        'bn.running_mean: norm.mean is missing in the weights',
        'extra.kernel: has no place in PyTorch',
        'fc.weight: (5, 2) in the weights, (5, 3) in PyTorch',
        'other.weight: taken by 0 rules',
    ]


def test_two_entries_for_one_path():
    table = (Rule('a|b', 'x', LINEAR),)
    found, problems = places({'a.weight': None, 'b.weight': None}, table)
    assert list(found) == ['a.weight']
    assert problems == ['b.weight: goes to x.kernel, as a.weight does']


def test_two_rules_for_one_entry():
    table = (Rule('a', 'x', LINEAR), Rule('.', 'y', LINEAR))
    with pytest.raises(InputError, match=r'a\.weight: taken by 2 rules'):
        translate({'a.weight': np.zeros((1, 1))}, table)


def test_table_of_a_part():
    table = prefixed('net.0', 'encoder', TABLE)
    (path,) = translate({'net.0.conv3.bias': np.zeros(1)}, table)
    assert path == 'encoder.layers.3.bias'
    with pytest.raises(InputError, match='taken by 0 rules'):
        translate({'netX0.conv3.bias': np.zeros(1)}, table)  # the dot is no wildcard
