"""The options that every module of the controller has, as `ansible-doc` shows them."""


class ModuleDocFragment:
    """Named `controller_asg` in the modules' `extends_documentation_fragment`."""

    DOCUMENTATION = r"""
options:
  address:
    description:
      - Where the controller's admin service answers, as gRPC writes it.
      - The environment variable E(CONTROLLER_ASG_ADDRESS) is used when it is not given, and then
        V(unix:///run/controller-asg/admin.sock).
    type: str
  timeout:
    description: The longest time one call may take, in seconds. A day at the most.
    type: float
    default: 30.0
requirements:
  - grpcio and controller-asg. They are in the controller's own environment, so run the module on its machine with
    C(ansible_python_interpreter=/opt/controller-asg/bin/python).
"""
