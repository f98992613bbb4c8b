"""The report: one offline HTML file of a finished run, readable on a phone, light and dark.

Everything is read from the run folder; nothing is sampled or scored again.
"""
