"""Parameters, their state and that of groups: what is there, what is made, and checks of both."""
