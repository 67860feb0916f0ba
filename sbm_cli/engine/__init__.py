"""The chain from noisy to clean samples for one step on a CPU, without PyTorch."""
