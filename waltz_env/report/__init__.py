"""The report on runs and evaluations: one HTML file with tables, figures and a browser of games."""
