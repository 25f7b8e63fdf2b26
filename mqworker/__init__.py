"""mqworker: a service around your algorithm, behind RabbitMQ."""
