"""The Schrödinger bridge between a clean and a noisy tensor: schedules, marginal, samplers.

Knows torch and nothing else: a state is any tensor [batch, ...], complex or real.
"""
