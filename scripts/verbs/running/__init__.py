"""How is the service run, and the installation looked after?"""
