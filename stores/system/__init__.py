"""The operating system's side of every command: signals, terminals, text, and files that appear whole.

process     open streams, and an import path that children inherit safely
interrupts  Ctrl-C, SIGTERM and SIGHUP as one exception
terminal    a reader of the output that goes away
text        what is printed: escapes made visible, tables, CSV cells
threads     how many threads a job gets
aside       temporary files that only their owner writes and the next writer clears
durable     renames that survive a power cut
"""
