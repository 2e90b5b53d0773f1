"""How the time of a step grows: with parameters, with tensors, with threads; and what comes before the second step."""
