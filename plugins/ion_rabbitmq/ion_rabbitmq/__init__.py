"""RabbitMQ as the message broker of Ion."""
