"""The networks: kernels, blocks and backbones. They know nothing of bridges."""
