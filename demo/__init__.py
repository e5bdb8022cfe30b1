"""`make demo`: from an empty machine to a fleet that scales, in four scenes."""
