"""HANet, which refines the poses of any estimator: `--config configs/hanet.py:preset=small,source=noise`.

`source=noise` makes the estimates from the truth of `config.dataset`; all it needs is
`python -m data_pipelines.build kinetic_puppets --data_dir data`. `source=predictions` takes files that `evaluate --predictions`
wrote, `source=sequences` DeciWatch's npz files; name them in `config.poses.train` and `config.poses.eval` (docs/refine.md).
"""

from ml_collections import ConfigDict

from configs import common

PRESETS = {
    'small': {'interval': 5, 'window': 2, 'width': 64, 'levels': 3, 'pre_norm': True},
    'tiny': {'interval': 2, 'window': 2, 'width': 8, 'levels': 1, 'pre_norm': False},
    'jhmdb_2d': {'interval': 5, 'window': 2, 'width': 256, 'levels': 5, 'pre_norm': False},
    'h36m_3d': {'interval': 5, 'window': 20, 'width': 64, 'levels': 5, 'pre_norm': True},
    'pw3d': {'interval': 5, 'window': 20, 'width': 128, 'levels': 5, 'pre_norm': True},
}


def get_config(arg: str | None = None) -> ConfigDict:
    """`preset`: small, tiny (for tests) or a released size; `source`: noise, predictions, sequences; `recipe`: ours, released."""
    args = common.parse_arg(arg, preset='small', source='noise', recipe='ours')
    if args.preset not in PRESETS:
        raise ValueError(f'preset {args.preset!r}: choose {", ".join(PRESETS)}')
    spatial = args.preset in ('h36m_3d', 'pw3d')
    config = ConfigDict(
        {
            'seed': 0,
            'dtype': 'float32',  # of the matrix products
            'model': {
                'name': 'hanet',
                **PRESETS[args.preset],
                'heads': 4,
                'dropout': 0.0,
                'activation': 'leaky_relu',
                'memory_mask': 'masked',
            },
            'init': {'model': '', 'partial': False},
            'dataset': {
                'name': 'kinetic_puppets',
                'config': 'joints15',
                'data_dir': 'data',
                'train_split': 'train',
                'eval_split': 'test',
                'allow_overlap': False,
            },
            'poses': {
                'source': args.source,
                'train': '',
                'eval': '',
                'train_truth': '',
                'eval_truth': '',
                'normalise': 'box',
                'augment_scale': (0.8, 1.25),
                'augment_rotation': 30.0,
                'augment_flip': 0.5,
                'augment_shift': 0.05,
            },
            'noise': {'jitter': 0.05, 'outliers': 0.1, 'swaps': 0.0, 'gaps': 0.0, 'gap_length': 8},
            'loss': {'final_weight': 1.0 if spatial else 5.0, 'refined_weight': 1.0, 'mutual': 'detached'},
            'optimizer': {
                'schedule': 'cosine',
                'learning_rate': 3e-3,
                'warmup_epochs': 5.0,
                'drop_epochs': (),
                'final_rate': 0.01,
                'weight_decay': 0.01,
                'clip_norm': 1.0,
                'accumulate': 1,
            },
            'train': {
                'epochs': 600.0,
                'steps': 0,  # instead of epochs
                'batch_size': 16,
                'average_decay': 0.995,  # moving average of the weights; 0: none
                'log_every': 10,  # steps
                'eval_every': 100.0,  # epochs
                'save_every': 20.0,  # epochs
            },
            'eval': {
                'batch_size': 64,  # windows
                'step': 1,  # frames from one window to the next
                'select': 'negative_mpjpe' if spatial else 'torso/pck/0.05/mPCK',  # the best checkpoint has its highest value
            },
        }
    )
    if args.recipe == 'released':
        config.model.update(memory_mask='released', dropout=0.1, pre_norm=spatial)
        config.optimizer.learning_rate = 1e-3
        config.loss.mutual = 'released'
        config.poses.update(
            normalise='image', augment_scale=(1.0, 1.0), augment_rotation=0.0, augment_flip=0.0, augment_shift=0.0
        )
        config.optimizer.clip_norm = 0.0
        config.train.update(epochs=70.0, average_decay=0.0)
        config.eval.step = config.model.interval
    elif args.recipe != 'ours':
        raise ValueError(f"recipe {args.recipe!r}: choose 'ours' or 'released'")
    return config
