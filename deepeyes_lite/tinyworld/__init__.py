"""The tiny world: everything that exists only so that the course runs on two CPU cores."""
