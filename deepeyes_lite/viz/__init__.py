"""Pictures of episodes and runs, for readers: figures, pages, reports, widgets."""

# Colours of Okabe and Ito, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
