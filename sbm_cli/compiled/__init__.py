"""Kernels on NumPy arrays, compiled by Numba for the processor at hand. They know nothing of PyTorch.

They are written on vectors of channels in registers (`vector`, `llvm`), so that nothing depends on the auto-vectoriser.
"""
