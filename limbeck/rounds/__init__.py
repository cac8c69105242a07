"""Rounds: whether the traffic has moved so far that labelling and training again are worth their money."""
