"""Measurements: speed beside peers and the machine's own limit, accuracy beside mpmath."""
