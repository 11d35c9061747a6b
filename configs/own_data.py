"""A small KIMNet on your own labelled videos or images, from the weights that come with the package.

`--config configs/own_data.py:data=my_data`. Build the data first:
`kimnet build coco_keypoints/my_data --manual_dir my_data --data_dir data`.

The network, the crop and the recipe are those of `kimnet-s-jhmdb`. Joints that it knows, by their names, keep its weights; the
others begin with random ones. 200 steps of 4 windows suit some twenty clips; give more data more steps, with
`--config.train.steps`. The best checkpoint is chosen by person size, since not every skeleton has a torso.
"""

from ml_collections import ConfigDict

from kimnet_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """`data`: the name it was built by; `eval`: the split to evaluate on; `start`: pretrained weights, or `none`; `preset`:
    `common.PRESETS`, other than `medium` with `start=none` alone."""
    args = common.parse_arg(arg, data='', eval='test', start='kimnet-s-jhmdb', preset='medium')
    if not args.data:
        raise ValueError('data: give the name that your data set was built by, as in configs/own_data.py:data=my_data')
    if args.start != 'none' and args.preset != 'medium':
        raise ValueError(f'preset={args.preset}: {args.start} has the size of preset=medium; for another one, give start=none')
    config = common.base()
    common.set_model(config, '', 'without_p', args.preset)
    config.dataset.update(name='coco_keypoints', config=args.data, eval_split=args.eval)
    config.target.centre = 'subpixel'
    config.optimizer.learning_rate = 3e-4
    config.train.update(batch_size=4, steps=200, average_decay=0.99)
    config.eval.select = 'person/pck/0.05/mPCK'
    if args.start != 'none':
        config.init.model = f'pretrained:{args.start}'
    return config
