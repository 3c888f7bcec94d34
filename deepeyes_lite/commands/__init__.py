"""The commands of ``python -m deepeyes_lite``; each imports what it needs when it runs."""
