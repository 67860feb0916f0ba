"""Kernels of the network's operations."""
