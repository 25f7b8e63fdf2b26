"""Where the API is. Pure; what decides by a path before any route is looked for knows this alone."""

API = "/api/v1"
