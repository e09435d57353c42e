"""The report: evidence as tables, plots and statistics in one HTML file that works offline; Markdown and CSV."""
