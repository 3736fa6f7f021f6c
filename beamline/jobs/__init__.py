"""The durable queue of scans, and the worker that reduces them."""
