"""The chat page: answers as they are made, the prompt as the model sees it."""
