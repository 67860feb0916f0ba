"""Corpora and what is made of them: manifests, mixtures in simulated rooms, packs and test sets."""
