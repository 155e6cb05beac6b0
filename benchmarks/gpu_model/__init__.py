"""What a training step or an inference call takes of an H200, estimated on a machine without one."""
