"""Learned codecs with a guaranteed error, and the archive that holds them."""
