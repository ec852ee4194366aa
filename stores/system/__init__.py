"""The operating system's side of every command: signals, terminals, text, and files that appear whole.

process     standard streams and import path, prepared once
interrupts  Ctrl-C, SIGTERM and SIGHUP as one exception
terminal    standard streams that survive the loss of their reader
text        text shown safely: escapes, tables, Markdown, CSV cells
threads     thread pools
aside       temporary files, renamed when complete
durable     syncing folders
"""
