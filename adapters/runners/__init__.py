"""Where loaded models live: a child process, a thread, the event loop. Also jobs, and the frames between processes."""
