"""Corpora as they come: laid out, checked, cleaned, and described in manifests."""
