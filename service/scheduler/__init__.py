"""The scheduler: permits for requests, and the queue, batches and workers for their rows."""
