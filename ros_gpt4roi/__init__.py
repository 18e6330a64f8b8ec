"""GPT4RoI on a robot: descriptions of, and answers about, boxes in camera frames."""
