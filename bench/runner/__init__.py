"""Where and in which order cells run; knows no torch."""
