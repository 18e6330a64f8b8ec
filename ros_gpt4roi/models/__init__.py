"""Models by name: which there are, what is known of each, and their download (`python -m ros_gpt4roi.models`).

Nothing else of this package goes online.
"""
