"""The local EC2: an EC2 API whose instances are machines that run systemd, on one Linux host.

`lifecycle` starts and ends a lab, `daemon` is its process, `ec2_patches` and `launch` make moto's EC2 boot machines,
`pool` and `machine` are those machines, `imds` their metadata, `faults` what can be broken on purpose.
"""
