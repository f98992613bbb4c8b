"""Alignment methods: one method, one file; each is a row of the loop in `seqalign.core.smc`."""
