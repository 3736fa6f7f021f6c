"""Results back to where people look for them: files, catalogues, derived runs."""
