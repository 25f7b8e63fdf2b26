"""What the HTTP threads may ask of the Service, and the desired state that they change."""
