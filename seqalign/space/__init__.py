"""Hard constraints: what may stand where, and the look-ahead that respects it."""
