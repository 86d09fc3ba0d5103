"""The embedded local batch service: both providers' batch protocols on localhost, in front of any text generator.

wire      one HTTP request and one response as values, with what the transport shall do to the response
routing   from a request to the function that answers it: keys, faults, the log; errors says no in each provider's way
gemini, gemini_files, together    pure handlers: (request, world) -> response
gemini_rows, together_rows        their line formats; rows is what the others need to know of these
world     everything the service remembers; store keeps it on disk
faults    what shall go wrong, and when; actions is what can happen to one call, texts what a fault does to a text
results   rows -> the bytes of result files, with everything that faults do to them
engine    jobs take time and get their rows answered by a backend
workers   the threads that ask a slow backend; throttle says how many of them may
backends  who writes the texts: a script or a small local model; chat: any OpenAI-compatible server
server    the loopback HTTP servers around all that; control drives them from another process, where asked for
guard     which requests are refused, because a web page may be behind them
"""
