"""Real-time factors and latency on this machine, of ours and of other programs."""
