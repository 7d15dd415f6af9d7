"""The page that shows why cross-entropy learns: `crossent lab` writes it."""
