"""From what is typed to composed, plain configurations."""
