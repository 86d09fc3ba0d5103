"""The local batch service (`serve`): both providers' batch protocols on this machine, in front of any text generator.

server           the HTTP servers; control_api lets another process control them, if switched on
host_check       refuses requests that a web page may have sent
routing          finds the handler of a request; checks keys, applies faults, keeps the log. errors: the error bodies
http_values      one HTTP request and one response as values, and how the server sends the response (delayed, cut)
protocols/       gemini, gemini_files, together: handlers, (request, state) -> response; gemini_rows, together_rows:
                 their line formats; row_format: the interface that the other modules use
state            everything the service remembers; storage keeps it on disk
engine           runs the jobs: pending, running, rows answered, ended; result_files writes the rows of a job as files
faults/          which faults to simulate, and when; actions: faults of one call, text_edits: faults of one text
backends/        write the texts: builtin (a script, a small local model), openai_chat (any OpenAI-compatible
                 server); workers call a slow backend in threads, throttle decides how many rows at once
"""
