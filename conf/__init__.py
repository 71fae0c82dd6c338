"""Hydra configuration: a package so that the installed wheel finds it from any folder."""
