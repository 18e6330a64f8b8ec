"""A trained model made fast: (frame, boxes, question) → text. Knows no ROS."""
