"""Photos to maps: the equations, and what is found out about a network to apply them."""
