"""Scans that arrive without the hook: folders, document streams, catalogues."""
