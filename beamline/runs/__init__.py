"""A bluesky run, told by its documents, as a scan."""
