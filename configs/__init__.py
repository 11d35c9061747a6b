"""Experiment configs, one file each: `--config configs/<name>.py[:key=value,...] [--config.field=value ...]`."""
