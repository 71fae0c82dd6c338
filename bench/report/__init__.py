"""Records to tables and pages, in every format."""
