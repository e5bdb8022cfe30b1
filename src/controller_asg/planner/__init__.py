"""Snapshot in, plan out. Every rule about size, health, lifecycle and victims stands here; pure."""
