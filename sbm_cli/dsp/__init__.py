"""Spectra: short-time Fourier transform, level and compression, shared by training and inference."""
