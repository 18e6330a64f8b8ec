"""What people beside the robot use: questions and answers in a terminal, through `ros_gpt4roi.client`."""
