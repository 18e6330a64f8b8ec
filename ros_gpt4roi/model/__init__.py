"""The GPT4RoI network in plain PyTorch: no ROS, no engine, no file of the robot's."""
