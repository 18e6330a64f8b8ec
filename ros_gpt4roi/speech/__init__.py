"""Hearing and speaking: audio, voice activity, recognisers, what was meant, and a voice. Knows no ROS and no model.

What it needs beside the package's own requirements is in requirements/speech.txt.
"""
