"""The embedded local batch service: both providers' batch protocols on localhost, in front of any text generator.

wire      one HTTP request and one response as values, with what the transport shall do to the response
world     everything the service remembers; store keeps it on disk
faults    what shall go wrong, and when; rowfaults and results turn that into the lines of a result file
gemini, together    one pure handler each: (request, world) -> response; *_rows are their line formats
engine    jobs take time and get their rows answered by a backend
workers   the threads that ask a slow backend; throttle says how many of them may
backends  who writes the texts: a script or a small local model; chat: any OpenAI-compatible server
server    the loopback HTTP servers around all that
"""
