"""What the HTTP threads may ask of the Service, and the desired state that their changes are made to."""
