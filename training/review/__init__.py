"""The page on which people accept, edit and reject records of their own pictures: `python -m training.review`."""
