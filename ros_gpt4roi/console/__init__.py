"""What people beside the robot use, in a terminal and in a browser, through `ros_gpt4roi.client`."""
