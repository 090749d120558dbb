"""Stage adapt: a small head learnt on stored features makes a new feature set, `codes`, for the later stages."""
