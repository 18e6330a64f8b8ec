"""The tabletop: rendered scenes with exact ground truth, and texts about them. Knows no model and no ROS."""
