"""One HTML file that shows what runs and evaluations found: tables, figures, a browser of their games."""
