"""Turns films into unit vectors, names the findings they show, and explains both."""
