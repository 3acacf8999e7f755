"""Is a batch with goals right? A port's batches against the definition, one row at a time."""
