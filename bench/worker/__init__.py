"""Entry points of child processes; imported by nobody."""
