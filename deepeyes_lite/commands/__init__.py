"""The commands of ``python -m deepeyes_lite``, for the terminal; each imports what it needs when it runs."""
