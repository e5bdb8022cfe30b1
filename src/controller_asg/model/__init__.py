"""Frozen values that travel between the parts: groups, instances, activities, decisions. No I/O."""
