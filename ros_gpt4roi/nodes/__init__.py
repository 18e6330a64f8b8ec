"""The ROS 2 side: messages in, runtime, messages out. Nothing imports this package."""
