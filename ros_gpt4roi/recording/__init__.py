"""What of a robot's frames, and of what is said of them, is kept, and how it gets to the disk. Knows no ROS."""
