"""The chain from noisy to clean samples on a CPU, without PyTorch."""
