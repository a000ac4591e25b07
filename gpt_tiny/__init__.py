"""A GPT-2 of our own, trained by the losses of minipref on preference data."""
