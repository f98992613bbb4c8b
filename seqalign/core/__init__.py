"""The sampler: one loop over weighted particles, and the processes it drives."""
