"""One family of metrics a file: what a column means and how it is read."""
