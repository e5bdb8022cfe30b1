"""MonitorC: agents' sessions, their sample windows, and the pings that ask again before anything is replaced."""
