"""Training: data sets, the two stages, evaluation. Run from a checkout; not installed on the robot."""
