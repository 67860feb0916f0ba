"""The backbones, one file each; their dimensions stand in `nn/configs.py`."""
