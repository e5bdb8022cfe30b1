"""The reconciler: observe, decide, journal, act, record. It carries plans out and holds no rule of its own."""
