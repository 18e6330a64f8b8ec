"""Simulated worlds with exact ground truth, and texts about them. Knows no model and no ROS."""
