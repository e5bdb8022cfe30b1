"""The port to EC2 and its boto3 adapter."""
