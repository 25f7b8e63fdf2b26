"""The code check, a short-lived process that imports the user's code and validates parameters, and its client."""
