"""How is a network made? Recipes, losses, optimiser, validation, and a run that can be killed and resumed."""
