"""Pictures of episodes and runs, for readers: figures, pages, reports, widgets."""
