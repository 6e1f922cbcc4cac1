"""How is a collection made, changed, copied and checked?"""
