"""The port to durable state and its SQL adapter."""
