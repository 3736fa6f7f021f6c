"""Results read back against what their manifests say: which units there are, in what order, and how it is told."""
