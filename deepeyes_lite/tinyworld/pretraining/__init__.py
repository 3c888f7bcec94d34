"""How tiny-eyes was made, for those who want to make another; readers of the method do not need it."""
