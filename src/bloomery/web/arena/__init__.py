"""The arena page: campaigns in which people compare answers, and what their votes say of the models."""
