"""ControllerASG: an EC2 auto scaling group that its operator runs."""

from importlib.metadata import version

__version__ = version("controller-asg")
