"""The report: statistics, tables, figures and the page, from result tables alone."""
