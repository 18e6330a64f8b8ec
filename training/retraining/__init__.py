"""What `python -m training.retrain` is made of: data of corrections, replay, the plan with its cost, and the card."""
