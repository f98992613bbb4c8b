"""A campaign from its file to its report: one file per verb, named after it."""
