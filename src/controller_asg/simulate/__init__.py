"""Worlds in virtual time: the real engine, planner and policies, under a clock that jumps and a made-up cloud."""
