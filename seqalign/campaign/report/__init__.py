"""The report: one offline HTML file of a finished run, from what its folder holds."""
