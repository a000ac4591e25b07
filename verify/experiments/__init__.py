"""Claims about the tiny GPT, each measured on a small one: both implementations, every shortcut, every way of splitting."""
