"""How well do neighbours and findings hold, and what do vectors give away?"""
