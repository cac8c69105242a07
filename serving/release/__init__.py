"""Releases: the bundle, its head-query cache, and the pointer that names the current bundle."""
