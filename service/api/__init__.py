"""What goes over the wire? Requests that are checked, answers that are described, and the OpenAPI document."""
