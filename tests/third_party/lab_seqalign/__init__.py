"""A third party's package: a reward, a model, a method and a tempering, each in one file."""
