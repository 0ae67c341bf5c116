"""What training knows of each task."""
