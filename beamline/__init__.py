"""The shells: everything that touches an instrument, a disk or a person."""
